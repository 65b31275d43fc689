"""The documentation against the program: transcripts, snippets, clients, the site."""
