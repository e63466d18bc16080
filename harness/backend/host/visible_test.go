package host

import (
	"strings"
	"testing"
)

func TestAllocated(t *testing.T) {
	for env, want := range map[string]string{
		"":                                     "",
		"SLURM_JOB_ID=1":                       "",
		"SLURM_JOB_GPUS=0,2":                   "CUDA_VISIBLE_DEVICES=0,2 CUDA_DEVICE_ORDER=PCI_BUS_ID",
		"SLURM_JOB_GPUS=0,2 SLURM_STEP_GPUS=2": "CUDA_VISIBLE_DEVICES=2 CUDA_DEVICE_ORDER=PCI_BUS_ID",
		"SLURM_STEP_GPUS=2 CUDA_VISIBLE_DEVICES=0": "", // renumbered in a control group
		"SLURM_STEP_GPUS=2 CUDA_VISIBLE_DEVICES=":  "", // none on purpose
		"SLURM_STEP_GPUS=2 ROCR_VISIBLE_DEVICES=0": "",
		"SLURM_STEP_GPUS=":                         "",
	} {
		set := map[string]string{}
		for _, e := range strings.Fields(env) {
			k, v, _ := strings.Cut(e, "=")
			set[k] = v
		}
		got := strings.Join(Allocated(func(k string) (string, bool) { v, ok := set[k]; return v, ok }), " ")
		if got != want {
			t.Errorf("%q: %q, want %q", env, got, want)
		}
	}
}
