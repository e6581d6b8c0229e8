"""The settings of the algorithms that are shipped: without torch, for parents and drivers, which only look at them."""
