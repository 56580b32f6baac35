"""A task whose module takes long to import."""

import time

time.sleep(60)
