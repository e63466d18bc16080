"""Times a network in OpenCV's DNN module and prints JSON like pytorch.py:

    /usr/bin/python3 opencv.py MODEL SIZE BATCH THREADS SECONDS
"""
import json
import resource
import sys
import time

import cv2
import numpy as np

size, batch, threads = (int(a) for a in sys.argv[2:5])
seconds = float(sys.argv[5])
cv2.setNumThreads(threads)
net = cv2.dnn.readNetFromONNX(sys.argv[1])
image = np.sin(np.arange(batch * size * size, dtype=np.float32)).reshape(batch, 1, size, size)


def step():
    net.setInput(image)
    start = time.perf_counter()
    net.forward()
    return time.perf_counter() - start


step()
begin, cpu, times = time.perf_counter(), time.process_time(), []
while len(times) < 3 or time.perf_counter() - begin < seconds:
    times.append(step())
cpu = (time.process_time() - cpu) / len(times)
print(json.dumps({
    "peer": "opencv " + cv2.__version__,
    "step_ms": sorted(times)[len(times) // 2] * 1e3,
    "cpu_ms": cpu * 1e3,
    "peak_rss_mib": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
}))
