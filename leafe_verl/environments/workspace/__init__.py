"""Work on the files of a small repository whose tests fail: read, search, edit, run the tests.

environment.py   the environment
actions.py       how an answer is read, and what reading, searching and editing do
snapshots.py     the files of a repository as one immutable, content-addressed value
suite.py         the program that runs a repository's own tests, in the sandbox
rows.py          the rows of task files
mutations.py     seeded defects of correct code
generate.py      the command that makes the embedded task files from `repositories`
"""
