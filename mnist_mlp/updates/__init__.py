"""Other ways to make updates than `steps.train.TorchUpdater`; `runs/learner.py` chooses.

`compiled`: on a CPU, by the compiled loop of `loop`, from the lists of `lit`. `graphed`: a recorded
CUDA graph. `deformation`: on deformed images. `shared`: several processes under torchrun, with
`ranks` and `collectives`.
"""
