"""Other ways to make updates than `steps.train.TorchUpdater`; `runs/learner.py` chooses.

`compiled`: on a CPU, by the loop of `loop`, compiled as `machine_code` says. `graphed`: a recorded
CUDA graph. `deformation`: on deformed images. `shared`: several processes, with `ranks`.
"""
