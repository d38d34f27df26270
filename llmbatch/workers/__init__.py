"""Several processes of one run on this machine: limits are split, news is folded, killed ones are started again."""
