"""A trained model to answers for others: commands that stream, an HTTP service, a web page, CTranslate2."""
