"""Other ways to make updates than `steps.train.TorchUpdater`; `runs/learner.py` chooses.

`fused`: plain gradient descent on a CPU, faster. `graphed`: a recorded CUDA graph, faster.
`regularized`: deformed images, averaged weights, with `deformation`. `shared`: several processes
under torchrun, with `ranks` and `collectives`.
"""
