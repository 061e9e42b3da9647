"""A file is there whole, or as it was."""

from __future__ import annotations

import pytest

from vanilla_transformer.deployment.whole_file import written_whole


def test_a_file_appears_when_it_is_whole(tmp_path, capsys):
    target = tmp_path / "out"
    target.write_text("old\n")
    with pytest.raises(KeyboardInterrupt), written_whole(str(target)) as out:
        out.write("new\n")
        raise KeyboardInterrupt
    assert target.read_text() == "old\n"
    assert (tmp_path / "out.partial").read_text() == "new\n"
    assert f"so far are in {tmp_path / 'out.partial'}" in capsys.readouterr().err
    with pytest.raises(ValueError), written_whole(str(target)) as out:
        raise ValueError
    assert not (tmp_path / "out.partial").exists() and target.read_text() == "old\n"
    with written_whole(str(target)) as out:
        out.write("whole\n")
    assert target.read_text() == "whole\n" and [path.name for path in tmp_path.iterdir()] == ["out"]


@pytest.mark.parametrize("error", [None, ValueError])
def test_a_device_is_written_to_directly(pipe, error):
    try:
        with written_whole(str(pipe)) as out:
            out.write("x")
            if error is not None:
                raise error
    except ValueError:
        assert error is not None
    assert pipe.is_fifo() and [path.name for path in pipe.parent.iterdir()] == ["pipe"]


def test_a_link_stays_a_link_and_a_folder_is_refused(tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "out")
    with written_whole(str(tmp_path / "link")) as out:
        out.write("x")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "out").read_text() == "x"
    with pytest.raises(ValueError, match="is a folder; give the name of a file"), written_whole(str(tmp_path)):
        pass
