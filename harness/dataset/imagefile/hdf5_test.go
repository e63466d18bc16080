package imagefile

import (
	"os/exec"
	"path/filepath"
	"strings"
	"testing"

	"github.com/refocus-em/refocus/harness/testkit/peers"
)

// What an HDF5 file holds instead of images is said.
func TestWhatHDF5HoldsInstead(t *testing.T) {
	python := peers.Python(t, "numpy", "h5py")
	dir := t.TempDir()
	const script = `
import sys, h5py, numpy as np
def write(name, **arrays):
    with h5py.File(sys.argv[1] + "/" + name, "w") as f:
        for path, a in arrays.items():
            f[path] = a
write("dm5.dm5", **{"ImageList/[0]/ImageData/Data": np.ones((4, 5), "f4"), "DocumentObjectList/x": 1})
write("complex.h5", x=np.ones((4, 5), "c8"))
write("4d.h5", scan=np.ones((3, 4, 5, 6)), line=np.ones(7))
write("colours.h5", rgb=np.ones((40, 50, 3), "u1"))
with h5py.File(sys.argv[1] + "/filter.h5", "w") as f:
    f.create_dataset("x", data=np.ones((4, 5), "u2"), scaleoffset=0, chunks=(4, 5))
with h5py.File(sys.argv[1] + "/texts.h5", "w") as f:
    f["x"] = np.array([["a", "b"]], dtype=h5py.string_dtype())
with h5py.File(sys.argv[1] + "/virtual.h5", "w") as f:
    v = h5py.VirtualLayout((4, 5), "f4")
    v[:] = h5py.VirtualSource("complex.h5", "x", (4, 5))
    f.create_virtual_dataset("x", v)
`
	if out, err := exec.Command(python, "-c", script, dir).CombinedOutput(); err != nil {
		t.Fatalf("%v\n%s", err, out)
	}
	for name, want := range map[string]string{
		"dm5.dm5": "a DM5 file of DigitalMicrograph is not read: save the image as DM4", "complex.h5": "complex numbers",
		"4d.h5": "/scan of shape [3 4 5 6]", "colours.h5": "counts channels", "texts.h5": "texts", "virtual.h5": "virtual",
		"filter.h5": "the filter scale-offset",
	} {
		s, err := Open(filepath.Join(dir, name))
		if err == nil || !strings.Contains(err.Error(), want) {
			t.Errorf("%s: %+v, error %v, want %q", name, s, err, want)
		}
	}
}
