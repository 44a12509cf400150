"""`leafe-verl report`: show what the agent learned in one HTML file that needs no network.

runs.py          finds the run in a folder: its name, its metrics, and its trees one at a time
sources.py       defines what a report is made of: runs, and their trees one at a time
stored_trees.py  reads the trees of a training run or an evaluation
overview.py      turns a run's figures into tables and charts
recovery.py      does so for the figures of recovery
records.py       turns a tree into the JSON that the page shows and its row in the list of tasks
chunks.py        packs records into deflated chunks; the page inflates a chunk when one of its trees is opened
document.py      writes the HTML file
progress.py      reads how far a running run has come
present.py       says in words what a run does at this moment
watch.py         shows that, for `leafe-verl watch`
page/            template, styles and scripts; they insert every text of a task or a model through `textContent`
"""
