"""Data-parallel training of policies and other PyTorch modules over Horovod and MPI."""
