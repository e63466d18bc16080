"""Writes the same three images of 20 x 18 pixels in every form that package
imagefile reads, with the libraries that users have: numpy, tifffile, h5py and
OpenCV (Debian: python3-numpy, python3-tifffile, python3-h5py, python3-opencv).

    python3 make.py FOLDER

A file's name starts with its kind of number, which fixes the pixels' values:
u (unsigned), i (signed: 60 less) or f (a quarter of that), then the number of images.
"""
import json
import struct
import sys
from pathlib import Path

import cv2
import h5py
import numpy as np
import tifffile

out = Path(sys.argv[1])
n, h, w = np.meshgrid(np.arange(3), np.arange(20), np.arange(18), indexing="ij")
base = (37 * n + 5 * h + 3 * w) % 120
of = {"u": base, "i": base - 60, "f": (base - 60) / 4}


def name(kind, images, *rest):
    return str(out / "-".join([kind + str(images), *map(str, rest)]))


# NumPy: every type, order and shape
for dtype in "u1 i1 b1 u2 i2 u4 i4 u8 i8 f2 f4 f8".split():
    for order in "<>":
        for fortran in (False, True):
            kind = dtype[0] if dtype != "b1" else "b"
            a = (base > 60) if kind == "b" else of[kind]
            a = np.asarray(a, dtype=order + dtype, order="F" if fortran else "C")
            a = a.astype(order + dtype, order="F" if fortran else "C")
            np.save(name(kind, 3, order == "<" and "le" or "be", dtype, fortran and "fortran" or "c") + ".npy", a)
f4 = of["f"].astype("f4")
for fortran in (False, True):
    order = np.asfortranarray if fortran else np.ascontiguousarray
    tail = "fortran.npy" if fortran else "c.npy"
    np.save(name("f", 1, "2d", tail), order(f4[0]))
    np.save(name("f", 1, "3d1", tail), order(f4[0][:, :, None]))
    np.save(name("f", 3, "4d-channel-first", tail), order(f4[:, None]))
    np.save(name("f", 3, "4d-channel-last", tail), order(f4[..., None]))
for version in ((2, 0), (3, 0)):
    with open(name("f", 3, "version", version[0]) + ".npy", "wb") as f:
        np.lib.format.write_array(f, f4, version=version)
np.savez(name("f", 3, "stored.npz"), f4)
np.savez_compressed(name("f", 3, "deflated.npz"), f4)
np.savez(out / "two.npz", images=f4, labels=of["u"].astype("u1"))

# TIFF
for dtype in "u1 i1 u2 i2 u4 i4 f2 f4 f8".split():
    a = of[dtype[0]].astype(dtype)
    for order in "<>":
        e = order == "<" and "le" or "be"
        tifffile.imwrite(name(dtype[0], 3, e, dtype, "strips.tif"), a, byteorder=order, photometric="minisblack", rowsperstrip=7, metadata=None)
        tifffile.imwrite(name(dtype[0], 3, e, dtype, "tiles.tif"), a, byteorder=order, photometric="minisblack", tile=(16, 16), metadata=None)
        tifffile.imwrite(name(dtype[0], 3, e, dtype, "big-tiles-deflate.tif"), a, byteorder=order, bigtiff=True, photometric="minisblack", compression="zlib", tile=(16, 32), metadata=None)
tifffile.imwrite(name("u", 3, "imagej.tif"), of["u"].astype("u2"), imagej=True, resolution=(50.0, 50.0), metadata={"unit": "nm"})  # 0.2 Å
tifffile.imwrite(name("u", 1, "centimetre.tif"), of["u"][0].astype("u2"), resolution=(5e8, 5e8), resolutionunit="CENTIMETER")  # 0.2 Å
for label, compression in {"none": 1, "lzw": 5, "deflate": 8, "packbits": 32773}.items():
    for dtype in "u1", "u2":
        pages = list(of["u"].astype(dtype))
        assert cv2.imwritemulti(name("u", 3, "opencv", label, dtype) + ".tif", pages, [cv2.IMWRITE_TIFF_COMPRESSION, compression])
assert cv2.imwrite(name("f", 1, "opencv-lzw-f4.tif"), f4[0], [cv2.IMWRITE_TIFF_COMPRESSION, 5])

# HDF5
for dtype in "u1 i1 u2 i2 u4 i4 u8 i8 f2 f4 f8".split():
    for order in "<>":
        with h5py.File(name(dtype[0], 3, order == "<" and "le" or "be", dtype) + ".h5", "w") as f:
            f.create_dataset("stack", data=of[dtype[0]].astype(order + dtype))
with h5py.File(name("b", 3, "bool.h5"), "w") as f:
    f.create_dataset("mask", data=base > 60)
for label, options in {
    "chunks": dict(),
    "gzip": dict(compression="gzip"),
    "lzf": dict(compression="lzf"),
    "shuffle-gzip": dict(shuffle=True, compression="gzip"),
    "shuffle-lzf-fletcher": dict(shuffle=True, compression="lzf", fletcher32=True),
    "fletcher": dict(fletcher32=True),
}.items():
    with h5py.File(name("f", 3, label) + ".h5", "w") as f:
        f.create_dataset("a/b/c", data=f4, chunks=(2, 7, 18), **options)
with h5py.File(name("f", 3, "channel.h5"), "w", userblock_size=1024) as f:
    f.create_dataset("x", data=f4[:, None], chunks=(1, 1, 20, 5), compression="gzip")
with h5py.File(name("f", 3, "latest.h5"), "w", libver="latest") as f:
    f.create_dataset("g/x", data=f4)
for label, string in {"ncem": lambda s: np.bytes_(s), "ncem-variable": str}.items():
    with h5py.File(name("f", 3, label) + ".emd", "w") as f:  # as in ncempy.io.emd
        g = f.create_group("data/stack")
        g.attrs["emd_group_type"] = 1
        g.create_dataset("data", data=f4, chunks=True)
        for i, d in enumerate(f4.shape):
            dim = g.create_dataset("dim%d" % (i + 1), data=np.arange(d) * 0.02)
            dim.attrs["name"] = string("x")
            dim.attrs["units"] = string("[n_m]")
for frames in 3, 1:
    with h5py.File(name("i", frames, "velox.emd"), "w") as f:  # as ncempy.io.emdVelox reads it
        g = f.create_group("Data/Image/0123456789abcdef")
        a = np.moveaxis(of["i"][:frames], 0, -1).astype("i2")
        g.create_dataset("Data", data=a, chunks=(20, 18, 1), maxshape=(20, 18, None))
        text = json.dumps({"BinaryResult": {"Detector": "BM-Ceta", "PixelSize": {"width": "2e-11", "height": "2e-11"}, "PixelUnitX": "m"}})
        m = np.zeros((64000, frames), "u1")
        m[: len(text)] = np.frombuffer(text.encode(), "u1")[:, None]
        g.create_dataset("Metadata", data=m, chunks=(64000, 1), maxshape=(64000, None), compression="gzip")
with h5py.File(name("f", 3, "many-groups.h5"), "w") as f:
    for i in range(200):
        f.create_group("group number %d" % i)
    f["group number 77"].create_dataset("here", data=f4)
    f["soft"] = h5py.SoftLink("/nowhere")
    f["again"] = f["group number 77"]
with h5py.File(out / "two.h5", "w") as f:
    f["images"] = f4
    f["sub/labels"] = of["u"].astype("u1")
for label, options in {
    "single": dict(chunks=(3, 20, 18)),
    "single-gzip": dict(chunks=(3, 20, 18), compression="gzip"),
    "fixed": dict(chunks=(1, 20, 18)),
    "fixed-gzip-edges": dict(chunks=(2, 7, 11), compression="gzip", shuffle=True),
    "fixed-paged": dict(chunks=(1, 1, 1), fletcher32=True),
}.items():
    with h5py.File(name("f", 3, "latest", label) + ".h5", "w", libver="latest") as f:
        f.create_dataset("x", data=f4, **options)
with h5py.File(name("f", 3, "implicit.h5"), "w", libver="latest") as f:
    plist = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    plist.set_chunk((1, 20, 5))
    plist.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    d = h5py.h5d.create(f.id, b"x", h5py.h5t.IEEE_F32LE, h5py.h5s.create_simple(f4.shape), plist)
    d.write(h5py.h5s.ALL, h5py.h5s.ALL, f4)
for label, options in {  # by an extensible array, a B-tree of version 2, a fixed array with room
    "grows": dict(chunks=(1, 20, 18), maxshape=(None, 20, 18)),
    "grows-gzip": dict(chunks=(2, 7, 11), maxshape=(None, 40, 18), compression="gzip", shuffle=True),
    "grows-rows": dict(chunks=(1, 1, 5), maxshape=(9, None, 30)),
    "grows-twice": dict(chunks=(2, 3, 18), maxshape=(None, None, 18)),
    "grows-thrice-gzip": dict(chunks=(1, 1, 1), maxshape=(None, None, None), compression="gzip"),
    "fixed-room": dict(chunks=(1, 7, 5), maxshape=(5, 20, 36)),
}.items():
    with h5py.File(name("f", 3, "latest", label) + ".h5", "w", libver="latest") as f:
        f.create_dataset("x", data=f4, **options)
# f3-latest-unfiltered-edges.h5 was made with H5Pset_chunk_opts, which h5py does not offer.
many = np.add.outer(np.arange(400), np.arange(400)).astype("u2")
for label, maxshape in {"paged": (400, 400), "grows-paged": (None, 400), "deep-tree": (None, None)}.items():
    with h5py.File(out / ("many-chunks-%s.h5" % label), "w", libver="latest") as f:
        f.create_dataset("x", data=many, chunks=(1, 1), maxshape=maxshape)
# Links and attributes that fill a fractal heap of one block and of two tables.
for label, many in {"latest-ncem": 20, "latest-ncem-many": 3000}.items():
    with h5py.File(name("f", 3, label) + ".h5", "w", libver="latest") as f:
        g = f.create_group("data/stack")
        d = g.create_dataset("data", data=f4, chunks=(1, 20, 18), maxshape=(None, 20, 18))
        for i in range(many):
            f.create_group("group number %d" % i)
            g.attrs["note %d" % i] = "of the session " * (i % 9)
        for i, n in enumerate(f4.shape):
            dim = g.create_dataset("dim%d" % (i + 1), data=np.arange(n) * 0.02)
            for k in range(many):
                dim.attrs["note %d" % k] = k
            dim.attrs["units"] = "[n_m]"
            dim.attrs["name"] = "nyx"[i]
with h5py.File(out / "sparse.h5", "w") as f:
    f.create_dataset("x", shape=(3, 20, 18), dtype="f4", chunks=(1, 20, 18))[1] = f4[1]

# MATLAB: what SciPy writes, and version 7.3, which is HDF5 with the dimensions reversed
import scipy.io  # noqa: E402

mat = {n: np.transpose(of[k].astype(d), (1, 2, 0))[:, :, None] for n, k, d in [("f", "f", "f4"), ("i", "i", "f8"), ("u", "u", "u2")]}
scipy.io.savemat(name("f", 3, "v5.mat"), {"x": mat["f"], "scalar": 3.0, "text": "abc", "s": {"a": 1}})
scipy.io.savemat(name("i", 3, "v5-zlib.mat"), {"x": mat["i"]}, do_compression=True)
scipy.io.savemat(name("u", 1, "v5-zlib.mat"), {"a_name_that_is_longer": of["u"][0].astype("u1")}, do_compression=True)
scipy.io.savemat(name("b", 1, "v5.mat"), {"mask": base[0] > 60})
scipy.io.savemat(out / "two.mat", {"images": mat["f"], "labels": of["u"][0].astype("u1"), "fft": np.ones((4, 5), "c16"), "rgb": np.ones((9, 8, 3))})
for label, a in {"f3-v73": mat["f"], "b1-v73": base[0] > 60}.items():
    with h5py.File(out / (label + ".mat"), "w", userblock_size=512) as f:
        f.create_dataset("x", data=np.asarray(a).T).attrs["MATLAB_class"] = np.bytes_("single")

# PNG
assert cv2.imwrite(name("u", 1, "grey.png"), of["u"][0].astype("u1"))
assert cv2.imwrite(name("u", 1, "grey16.png"), of["u"][0].astype("u2"))
assert cv2.imwrite(name("u", 1, "grey-as-rgb.png"), cv2.merge([of["u"][0].astype("u1")] * 3))
assert cv2.imwrite(str(out / "colour.png"), cv2.merge([of["u"][i].astype("u1") for i in range(3)]))
assert cv2.imwrite(name("B", 1, "one-bit.png"), np.uint8(base[0] > 60) * 255, [cv2.IMWRITE_PNG_BILEVEL, 1])

# MRC, by the table of the MRC2014 format
for mode, dtype in {0: "i1", 1: "i2", 2: "f4", 6: "u2", 12: "f2"}.items():
    for order in "<>":
        head = bytearray(1024)
        struct.pack_into(order + "10i", head, 0, 18, 20, 3, mode, 0, 0, 0, 18, 20, 3)
        struct.pack_into(order + "3f", head, 40, 18 * 0.25, 20 * 0.25, 3.0)
        struct.pack_into(order + "i", head, 92, 64)
        head[208:212] = b"MAP "
        head[212:214] = b"\x44\x44" if order == "<" else b"\x11\x11"
        data = of[dtype[0]].astype(order + dtype).tobytes()
        Path(name(dtype[0], 3, "mode", mode, order == "<" and "le" or "be") + ".mrc").write_bytes(head + bytes(64) + data)

# What needs packages from PyPI that Debian lacks; the corpus holds these files.
try:
    import imagecodecs  # noqa: F401, tifffile uses it
    import mrcfile
    from PIL import Image
except ImportError:
    sys.exit()
for dtype in "u1 i1 u2 i2 u4 i4 f2 f4 f8".split():
    for order in "<>":
        e = order == "<" and "le" or "be"
        for compression in "zlib", "lzw", "packbits":
            tifffile.imwrite(
                name(dtype[0], 3, "imagecodecs", e, dtype, compression) + ".tif",
                of[dtype[0]].astype(dtype),
                byteorder=order, photometric="minisblack", compression=compression, rowsperstrip=7,
                predictor=compression != "packbits", metadata=None,
            )
for dtype in "i1 i2 f4 u2 f2".split():
    with mrcfile.new(name(dtype[0], 3, "mrcfile", dtype) + ".mrc") as f:
        f.set_data(of[dtype[0]].astype(dtype))
        f.voxel_size = 0.25
palette = Image.fromarray(of["u"][0].astype("u1"))
palette.putpalette([(7 * i) % 256 for i in range(3 * 256)])
palette.save(name("u", 1, "palette.png"))
Image.fromarray(of["u"][0].astype("u1")).save(name("u", 1, "pillow-lzw.tif"), compression="tiff_lzw")
