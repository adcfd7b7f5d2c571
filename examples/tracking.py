"""Each step told to a service of your choice, and a run that is stopped by what it answers.

    python examples/tracking.py

A run is a loop over its records, so there is nothing to register with: whatever takes numbers is
called from the loop. Here it is a database in a file; with wandb the same place has

    wandb.log({"loss": record.loss, "held back": record.val_loss}, step=record.step)
"""

# %%
import os
import random
import sqlite3

import femtogpt
from dummy_data import simple_dummy

STEPS = int(os.environ.get("STEPS", 200))
ENOUGH = 1.5  # nats: a loss at which we stop

# %%
with open("dataset.txt", "w", encoding="utf-8") as file:
    file.writelines(simple_dummy.generate(random.Random(1)))

database = sqlite3.connect("runs.sqlite")
database.execute("create table if not exists steps (run, step, loss, rate, tokens_per_second)")
[[run]] = database.execute("select count(distinct run) + 1 from steps")

# %%
model = femtogpt.new(embedding_degree=64)
for record in femtogpt.train(model, "dataset.txt", steps=STEPS):
    database.execute("insert into steps values (?, ?, ?, ?, ?)", (
        run, record.step, record.loss, record.lr, record.tokens_per_second))
    database.commit()
    for note in record.notes:  # sentences: a spike, a loss that sticks, memorising
        print(f"step {record.step}: {note}")
    if record.loss < ENOUGH:
        break
model.save("model.safetensors")

# %%
for row in database.execute("select run, max(step), min(loss), avg(tokens_per_second) from steps "
                            "group by run"):
    print("run {}: {} steps, lowest loss {:.3f}, {:,.0f} tokens/s".format(*row))
