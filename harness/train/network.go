package train

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"

	"github.com/refocus-em/refocus/harness/nn"
	"github.com/refocus-em/refocus/harness/onnx"
	"github.com/refocus-em/refocus/harness/random"
	"github.com/refocus-em/refocus/harness/study"
)

// UseNetwork sets the fields that say which network the plan's runs train. It
// returns the network's file where it comes from elsewhere, nil for the U-Net.
func (s *Spec) UseNetwork(p *study.Plan) ([]byte, error) {
	n := p.Study.Network
	s.ClassNames = n.Classes
	if n.ONNX == "" {
		s.Network = n.UNet()
		return nil, nil
	}
	file, err := onnx.Marshal(p.Network, onnx.MarshalOptions{})
	if err != nil {
		return nil, fmt.Errorf("%s: %w", n.ONNX, err)
	}
	s.Network = nn.UNetOptions{Classes: p.Study.Network.ClassCount()}
	s.ONNX, s.Weights = digest(file), n.Weights
	return file, nil
}

func digest(file []byte) string {
	sum := sha256.Sum256(file)
	return hex.EncodeToString(sum[:])
}

// Graph builds the network with its initial weights. network is the file that
// UseNetwork has returned.
func (s Spec) Graph(network []byte) (*nn.Graph, error) {
	index := random.Stream(s.Seed, "initialisation/"+s.Stream).Uint64()
	if s.ONNX == "" {
		g, err := nn.UNet(s.Network)
		if err != nil {
			return nil, err
		}
		g.Initialize(s.Seed, index)
		return g, nil
	}
	if network == nil {
		return nil, errors.New("the file of the network that is trained is missing")
	}
	if d := digest(network); d != s.ONNX {
		return nil, fmt.Errorf("the file of the network that is trained has SHA-256 %s, the run is of %s", d, s.ONNX)
	}
	g, err := onnx.Unmarshal(network)
	if err != nil {
		return nil, err
	}
	switch s.Weights {
	case study.WeightsKept:
	case study.WeightsNewHead:
		g.InitializeGroup(nn.NewHead, s.Seed, index)
	case study.WeightsRandom:
		g.Initialize(s.Seed, index)
	default:
		return nil, fmt.Errorf("weights %q are unknown", s.Weights)
	}
	return g, nil
}
