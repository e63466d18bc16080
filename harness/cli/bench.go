package cli

import (
	"encoding/json"
	"runtime"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/cli/internal/bench"
	"github.com/refocus-em/refocus/harness/files"
	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/onnx"
)

func benchCommand() *cobra.Command {
	cmd := group(&cobra.Command{Use: "bench", Short: "Measure how fast a backend trains or predicts"})
	cmd.AddCommand(
		benchMode(bench.Train, "Measure training steps: forward, backward and Adam", `Measures training steps of the study's U-Net, through the plugin's process and with
everything that a step of a study has: reading the samples, the protocol, forward and
backward pass, the optimiser.`),
		benchMode(bench.Predict, "Measure inference", `Measures predictions of the study's U-Net, through the plugin's process, which is sent
the images and sends back the probabilities.`))
	return cmd
}

func benchMode(mode, short, long string) *cobra.Command {
	var c common
	var b backendFlags
	m := bench.Measurement{Mode: mode}
	var seconds float64
	var layers bool
	var save, rates string
	cmd := &cobra.Command{
		Use:   mode,
		Short: short,
		Long: long + `

Prints the median, the effective rate (multiply-adds of direct convolution, two
operations each) and the fused multiply-add peak of the same cores in the same run.`,
		Args: exactly(0, "no arguments"),
		RunE: func(cmd *cobra.Command, args []string) error {
			if m.Size%16 != 0 {
				return usagef(cmd, "--size must be a multiple of 16, not %d", m.Size)
			}
			if m.Threads == 0 {
				m.Threads = runtime.NumCPU()
			}
			if layers && b.name != "cpu" {
				return usagef(cmd, "--layers looks into the cpu backend, not %q", b.name)
			}
			g, err := m.Network()
			if err != nil {
				return err
			}
			if save != "" {
				model, err := onnx.Marshal(g, onnx.MarshalOptions{})
				if err != nil {
					return err
				}
				if err := files.Write(save, model); err != nil {
					return err
				}
			}
			length := time.Duration(seconds * float64(time.Second))
			client, err := b.launch(cmd.Context(), nil)
			if err != nil {
				return err
			}
			defer client.Close()
			if err := m.Measure(cmd.Context(), client, g, length); err != nil {
				return err
			}
			if layers {
				if err := m.MeasureLayers(cmd.Context(), g, length); err != nil {
					return err
				}
			}
			if rates != "" {
				if err := m.SaveRate(rates); err != nil {
					return err
				}
			}
			if c.json {
				return json.NewEncoder(cmd.OutOrStdout()).Encode(m)
			}
			return m.Print(cmd.OutOrStdout())
		},
	}
	c.jsonFlag(cmd)
	b.register(cmd)
	f := cmd.Flags()
	intFlag(cmd, &m.Width, "width", 1, 64, "base width of the U-Net")
	intFlag(cmd, &m.Size, "size", 16, 64, "height and width of the images, a multiple of 16")
	intFlag(cmd, &m.Batch, "batch", 1, 16, "images per step")
	intFlag(cmd, &m.Threads, "threads", 0, 0, "threads (default: all cores)")
	f.StringVar(&m.Device, "device", "", "the device to measure (default: the backend's first)")
	f.StringVar(&m.Precision, "precision", backend.Float32, strings.Join(backend.Precisions, ", ")+": as far as the backend has it")
	floatFlag(cmd, &seconds, "seconds", 0, 5, "how long to measure")
	if mode == bench.Train {
		choiceFlag(cmd, &m.Freeze, "freeze", "", `"encoder" or "decoder": a part that is not trained`, nn.Encoder, nn.Decoder)
		f.StringVar(&rates, "rates", "", "also write the rate into this file, for plan --rates")
		f.BoolVar(&layers, "layers", false, "then time every pass over every layer, in this process, as long again")
	} else {
		f.StringVar(&save, "save", "", "also write the network, untrained, to this ONNX file, for a comparison")
	}
	return cmd
}
