package study

import (
	"github.com/refocus-em/refocus/harness/backend"
	"github.com/refocus-em/refocus/harness/hrtem"
)

// Study is a spec with one profile applied. The zero value is not useful: fields
// that a file leaves out have the values of [Defaults]. Keys of the TOML file
// are the JSON names; one tag serves both, so that the resolved spec in a
// manifest reads like the file it came from.
type Study struct {
	// Name identifies the study in file names: letters, digits, "-" and "_".
	Name string `json:"name"`
	// Title is one line for people.
	Title string `json:"title"`
	// Profile is the overlay that was applied, empty for none.
	Profile string `json:"profile,omitempty" spec:"-"`
	// Kind is [Transfer], two stages, or [Mixture], a single stage on images of
	// two domains.
	Kind string `json:"kind"`
	// Seed is the root of every random stream of the study. Studies with the
	// same seed and the same simulation share their structures. [choice]
	Seed uint64 `json:"seed"`
	// Keep is which weights stay in the store: [KeepWeights], [KeepBest] or
	// [KeepMetrics]. It is no part of what a result is, and so of no digest. [choice]
	Keep string `json:"keep,omitempty"`

	Network  Network            `json:"network"`
	Training Training           `json:"training"`
	Grid     Grid               `json:"grid"`
	Own      map[string]OwnData `json:"domain,omitempty"`
	Source   Selection          `json:"source"`
	Target   Selection          `json:"target"`
	Pretrain Pretrain           `json:"pretrain"`
	Transfer TransferStage      `json:"transfer"`
	Mixture  MixtureStage       `json:"mixture"`
	// Zip are groups of lists that configurations take together, the first values,
	// the second ones and so on, instead of every value of one with every value of
	// the others: [["pretrain.learning_rates", "transfer.learning_rates"]]. Lists of
	// a group have one length and may have a value twice.
	Zip [][]string `json:"zip,omitempty"`
	// Simulation is what all domains share; their crystals, sizes and label
	// blurs replace some of it.
	Simulation hrtem.Config `json:"simulation"`
	// Sizes are the particle radii (Å, smallest and largest) that grid.size
	// names. [paper]
	Sizes map[string][2]float64 `json:"sizes,omitempty"`
	// LabelBlur replaces simulation.label_blur for the crystals it names, in Å.
	// [paper: 1.0 for dc_C, bcc_Fe and spinel_Co3O4]
	LabelBlur map[string]float64 `json:"label_blur,omitempty"`
}

// Kinds of study.
const (
	Transfer = "transfer" // pretrain on one domain, transfer to another
	Mixture  = "mixture"  // a single stage on images of two domains
)

// What of a study's weights stays in the store. Histories and manifests always do, and
// so do weights that a run of the study has yet to start from. What does not stay is
// dropped as soon as that is known, and can be rebuilt from the run's manifest.
const (
	KeepWeights = "weights" // those of every run
	KeepBest    = "best"    // of every target those of the model with the lowest validation loss on it
	KeepMetrics = "metrics" // none, once the study is finished; until then those that "best" keeps
)

// FreezeNone is the value of transfer.frozen that trains the whole network; the
// others are the names of its parameter groups: nn.Encoder and nn.Decoder of the
// U-Net, what stands before the first dot in names of parameters elsewhere.
const FreezeNone = "none"

// Sharing of pretrained models.
const (
	ShareNone = "none" // every transfer has its own pretraining
	ShareSeed = "seed" // transfers of one domain, learning rate and initialisation share one
)

// Training is the protocol that every stage follows.
type Training struct {
	// Loss is backend.LossOnProbabilities [paper, by its offset of 0.3133] or
	// backend.LossOnLogits.
	Loss string `json:"loss"`
	// Batch is the number of images of one optimiser step. [paper: 16]
	Batch int `json:"batch"`
	// Dihedral makes all eight symmetries of every image part of each epoch,
	// so that n images are 8n samples. [paper: true]
	Dihedral bool `json:"dihedral"`
	// LearningRateDecay multiplies the learning rate after every epoch. [paper: 0.99]
	LearningRateDecay float64 `json:"learning_rate_decay"`
	// Adam holds the optimiser's constants. [choice: PyTorch's defaults]
	Adam backend.Adam `json:"adam"`
	// Initialisations is how many times each configuration is trained, each
	// time from other random weights. [paper: 3]
	Initialisations int `json:"initialisations"`
	// PretrainSharing is ShareNone [paper] or ShareSeed.
	PretrainSharing string `json:"pretrain_sharing"`
	// Precision is one of backend.Precisions: backend.Float32, in the noise and
	// structure series backend.Mixed [paper].
	Precision string `json:"precision"`
	// PrecisionFallback is backend.Float32 where a run may go on in float32 if the
	// backend lacks Precision, and empty where it must be refused. [choice]
	PrecisionFallback string `json:"precision_fallback"`
	// PowerCapWatts limits the GPU's power during training, in W; 0 leaves it
	// alone. Applied through NVML where driver and permission allow, and
	// recorded either way. [paper: 250 for the noise and structure series]
	PowerCapWatts int `json:"power_cap_watts"`
}

// Grid makes domains of simulated images: one for every combination of its
// crystals, sizes, defoci and doses. An axis with one value is a constant; the
// axes with several values name the domains.
type Grid struct {
	// Crystals are ids such as "w_CdSe"; see [crystal.Names]. [paper: nine]
	Crystals []string `json:"crystal"`
	// Sizes are names from the table [sizes]; empty for simulation.radius.
	Sizes []string `json:"size"`
	// Defocus is the nominal defocus in Å (10 Å = 1 nm) as the published
	// tables count it; see simulation.defocus_sign. [paper]
	Defocus []float64 `json:"defocus"`
	// Dose is the mean number of electrons per Å². [paper]
	Dose []float64 `json:"dose"`
	// DefocusSpread is the standard deviation of an image's actual defocus
	// around the nominal one, in Å. [paper: 15]
	DefocusSpread float64 `json:"defocus_spread"`
	// TrainImages is the number of images per domain from which training
	// draws, one per simulated structure. [paper: 512]
	TrainImages int `json:"train_images"`
	// ValidationImages per domain, of other structures. [choice: 128]
	ValidationImages int `json:"validation_images"`
}

// Selection picks domains by their values on the grid's axes and by name; an
// axis that is left out selects all of its values. A selection without any
// entry is every domain.
type Selection struct {
	Crystals []string  `json:"crystal,omitempty"`
	Sizes    []string  `json:"size,omitempty"`
	Defocus  []float64 `json:"defocus,omitempty"` // Å
	Dose     []float64 `json:"dose,omitempty"`    // e⁻/Å²
	Own      []string  `json:"domain,omitempty"`  // names of [domain.NAME] tables
}

// Pretrain is the first stage of a transfer study. It runs on every domain that
// [source] selects.
type Pretrain struct {
	Epochs        int       `json:"epochs"`         // [paper: 10]
	Images        int       `json:"images"`         // before augmentation [paper: 512]
	LearningRates []float64 `json:"learning_rates"` // initial ones [paper]
}

// TransferStage is the second stage of a transfer study. It runs from every
// domain that [source] selects to every other one that [target] selects, once
// for each combination of the entries below, unless zip puts some together.
type TransferStage struct {
	Epochs        int       `json:"epochs"`         // [paper: 10]
	Images        []int     `json:"images"`         // before augmentation [paper: 64 to 512]
	LearningRates []float64 `json:"learning_rates"` // initial ones [paper]
	Frozen        []string  `json:"frozen"`         // FreezeNone or names of parameter groups, nn.Encoder and nn.Decoder of the U-Net [paper]
}

// MixtureStage is the only stage of a mixture study. It runs for every
// unordered pair of a domain that [source] selects, the major one, and another
// that [target] selects, the minor one.
type MixtureStage struct {
	Epochs        int       `json:"epochs"`         // [paper: 10]
	Images        [][2]int  `json:"images"`         // of the major and the minor domain, before augmentation [paper]
	LearningRates []float64 `json:"learning_rates"` // initial ones [paper]
}

// Defaults is the study that a spec starts from: the published protocol and
// simulation, without domains.
func Defaults() Study {
	simulation, blurs := hrtem.PaperDefaults()
	return Study{
		Kind:    Transfer,
		Seed:    1,
		Keep:    KeepWeights,
		Network: Network{Width: 64},
		Training: Training{
			Loss:              backend.LossOnProbabilities,
			Batch:             16,
			Dihedral:          true,
			LearningRateDecay: 0.99,
			Adam:              backend.DefaultAdam,
			Initialisations:   3,
			PretrainSharing:   ShareNone,
			Precision:         backend.Float32,
		},
		Grid:       Grid{DefocusSpread: 15, TrainImages: 512, ValidationImages: 128},
		Pretrain:   Pretrain{Epochs: 10, Images: 512},
		Transfer:   TransferStage{Epochs: 10},
		Mixture:    MixtureStage{Epochs: 10},
		Simulation: simulation,
		LabelBlur:  blurs,
	}
}
