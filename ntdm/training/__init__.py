"""What training needs beside a method: checkpoints and the monitor. The command is ntdm/train.py."""
