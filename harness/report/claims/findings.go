package claims

import "github.com/refocus-em/refocus/harness/report/series"

// finding is a published finding and the rule that judges it.
type finding struct {
	number int
	text   string
	// quote is the paper's own words, and section where they stand.
	quote, section string
	// axis of the series that it is about; "" for every series of transfers.
	axis string
	// single marks the one that is also about single-stage training.
	single bool
	judge  func(Evidence) []Statement
}

// Where the paper has a word and no number, these are ours, the same for both
// sides. They were chosen with the published tables in view, so that a finding
// that holds on those is no evidence for it; what counts is ours.
const (
	little     = 1.05 // "comparable performance": at most 5 % more
	alike      = 1.25 // "comparable": a ratio between this and its inverse
	notable    = 2.0  // "notable performance dependence": worst to best at least
	fairly     = 1.5  // "fairly consistent": worst to best at most
	mostly     = 0.75 // "mostly depends": this share of the variance at least
	canMake    = 0.05 // "can make": for this share of the models at least
	tailModels = 20   // models that a statement about the upper tail needs
	savedLeast = 0.15 // "about 15-25%": from the paper
	tail       = 0.95 // the quantile that stands for the right-hand tail
)

const (
	hyperparameters = "6 Hyperparameters"
	conditions      = "7 Imaging conditions"
	generalisation  = "8 Model OOD generalization"
	noise           = "9 Noise and structure"
	conclusions     = "10 Recipes and conclusions"
)

var findings = []finding{
	{1, "More transfer images give a lower loss and a lighter upper tail.",
		"models trained with more data in their target domain tend achieve a lower loss and thus perform better … the overall proportion of the worst performing models … grows quickly as models are trained on fewer new images",
		hyperparameters, "", false, Evidence.images},
	{2, "Freezing the decoder costs little against freezing nothing; freezing the encoder costs more.",
		"freezing the decoder weights can provide comparable performance to fine-tuning the whole model, while freezing the encoder weights slightly degrades transfer learning performance",
		hyperparameters, "", false, Evidence.frozen},
	{3, "The most aggressive learning rates give the lowest loss and the smallest spread of it.",
		"using the most aggressive learning rates in both phases lead to both the best model performance and the smallest variance of model performance",
		hyperparameters, "", false, Evidence.rates},
	{4, "0 nm is the hardest domain.",
		"the 'in-focus' dataset, which is the hardest for our models to successfully segment",
		conditions, series.AxisDefocus, false, Evidence.focusHardest},
	{5, "After pretraining the loss depends notably on the pretraining domain, after transfer it is fairly consistent.",
		"model performance is fairly consistent in the transfer learning domain after transfer learning has been performed regardless of the pretraining data, even though after only pretraining, there is notable performance dependence on the pretraining domain",
		conditions, series.AxisDefocus, false, Evidence.source},
	{6, "Models pretrained at positive defocus generalise worse than others, models pretrained in focus better, and better than on their own domain.",
		"the models trained on positive defoci have worse generalization than other models … models trained with the 0nm defocus dataset have some of the best OOD generalization behavior, performing significantly better out-of-distribution than on their own training data",
		generalisation, series.AxisDefocus, false, Evidence.spreads},
	{7, "Transfer can make generalisation out of distribution worse.",
		"transfer learning can make the OOD generalization capability of a model noticeably worse",
		generalisation, series.AxisDefocus, false, Evidence.worse},
	{8, "Models pretrained in focus transfer out better than others transfer to in-focus.",
		"models trained on the in-focus data … are much more successful transfer learning to a new focal point than model trained on other focal points are to the in-focus data",
		conditions, series.AxisDefocus, false, Evidence.asymmetry},
	{9, "Single-stage training on a mixture and transfer reach a comparable loss for the same number of target images.",
		"performance after transfer learning and when utilizing a single training phase seem comparable for similar amounts of overall 5nm data",
		conditions, series.AxisDefocus, true, Evidence.baseline},
	{10, "Models trained at low dose are worse; after transfer the loss depends on the target's dose alone.",
		"Models trained on low dose images are worse across the board … Performance after transfer learning seems to depend only on the signal-to-noise of the target dataset",
		noise, series.AxisDose, false, Evidence.doses},
	{11, "Before transfer, models do comparably well on structures of similar symmetry, and large particles suffer from training on small ones; after transfer, the target decides.",
		"our segmentation models tend to perform comparably well on nanoparticles which share similar crystal symmetries after the pretraining phase … after transfer learning, performance on a new nanoparticle structure mostly depends on the target domain structure … after only pretraining, model performance on the large nanoparticle datasets degraded slightly if the model was trained on small nanoparticles",
		noise, series.AxisStructure, false, Evidence.structures},
	{12, "Freezing the encoder saves training time.",
		"freezing the encoder weights reduces the number of trainable parameters by almost 80%, which reduce the training time by about 15-25%",
		hyperparameters, "", false, Evidence.times},
	{13, "Transfer lowers the loss on the target: the paper's main claim.",
		"transfer learning can be an effective strategy for adapting a model to a new (but similar) domain",
		conclusions, "", false, Evidence.lowers},
}
