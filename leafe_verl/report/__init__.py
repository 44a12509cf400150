"""`leafe-verl report`: what the agent learned, as one HTML file that needs no network.

runs.py      a folder -> a Run: its name, its metrics, its trees one at a time (attempts.py, experience.py)
overview.py  a run's figures -> tables and charts
records.py   a tree -> what the page shows of it, and its row in the list of tasks
chunks.py    records -> deflated chunks, each inflated when one of its trees is opened
document.py  all of it -> the file
progress.py  a run that goes on -> how far it has come, for `leafe-verl watch` (watch.py)
page/        template, style and scripts; every text of a task or a model goes through `textContent` there
"""
