package host

// visible are the variables that say which GPUs a process sees. A scheduler or a person
// has chosen where one of them is set, to nothing too.
var visible = []string{"CUDA_VISIBLE_DEVICES", "ROCR_VISIBLE_DEVICES", "HIP_VISIBLE_DEVICES", "GPU_DEVICE_ORDINAL"}

// Allocated is what to add to a plugin's environment so that it sees only the GPUs
// which Slurm gave this process: its step's, else its job's. Slurm tells plugins itself,
// except where a site lets it write down what it gave and no more. lookup is
// os.LookupEnv.
func Allocated(lookup func(string) (string, bool)) []string {
	for _, name := range visible {
		if _, ok := lookup(name); ok {
			return nil
		}
	}
	for _, name := range []string{"SLURM_STEP_GPUS", "SLURM_JOB_GPUS"} {
		if gpus, ok := lookup(name); ok && gpus != "" {
			// Slurm counts as the driver does, CUDA from the fastest unless it is told.
			// HIP, too, heeds CUDA's variable.
			return []string{"CUDA_VISIBLE_DEVICES=" + gpus, "CUDA_DEVICE_ORDER=PCI_BUS_ID"}
		}
	}
	return nil
}
