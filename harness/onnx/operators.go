package onnx

import (
	"maps"
	"slices"
)

// rule says how an operator is stated in the form of package nn, or how its
// computation is followed. It has from least to most inputs, of which the first
// least may not be omitted. An attribute that it does not ask for is refused.
type rule struct {
	least, most int
	apply       func(im *importer, o *operator, a *attributes) error
	several     bool    // it sets all of its outputs
	fold        folding // of constants, nil where only sizes are computed
}

var rules = map[string]rule{
	"Conv":                  {2, 3, onImage((*importer).conv), false, nil},
	"ConvTranspose":         {2, 3, onImage((*importer).convTranspose), false, nil},
	"Gemm":                  {2, 3, (*importer).gemm, false, nil},
	"MatMul":                {2, 2, (*importer).gemm, false, nil},
	"BatchNormalization":    {5, 5, onImage((*importer).batchNormalization), false, nil},
	"InstanceNormalization": {3, 3, (*importer).instanceNormalization, false, nil},
	"GroupNormalization":    {3, 3, onImage((*importer).groupNormalization), false, nil},
	"LayerNormalization":    {2, 3, (*importer).layerNormalization, false, nil},
	"MaxPool":               {1, 1, onImage((*importer).maxPool), false, nil},
	"AveragePool":           {1, 1, onImage((*importer).averagePool), false, nil},
	"GlobalAveragePool":     {1, 1, onImage((*importer).globalPool), false, nil},
	"GlobalMaxPool":         {1, 1, onImage((*importer).globalPool), false, nil},
	"ReduceMean":            {1, 2, (*importer).reduce, false, nil},
	"ReduceSum":             {1, 2, (*importer).reduce, false, nil},
	"ReduceMax":             {1, 2, (*importer).reduce, false, nil},
	"ReduceMin":             {1, 2, (*importer).reduce, false, nil},
	"Resize":                {1, 4, onImage((*importer).resize), false, nil},
	"Upsample":              {1, 2, onImage((*importer).resize), false, nil},
	"DepthToSpace":          {1, 1, onImage((*importer).depthToSpace), false, nil},
	"SpaceToDepth":          {1, 1, onImage((*importer).depthToSpace), false, nil},
	"Pad":                   {1, 4, (*importer).pad, false, nil},
	"Dropout":               {1, 3, (*importer).dropout, false, nil},
	"Softmax":               {1, 1, (*importer).softmax, false, nil},
	"LogSoftmax":            {1, 1, (*importer).softmax, false, nil},
	"ArgMax":                {1, 1, (*importer).argMax, false, nil},
	"Concat":                {1, maxChannel, (*importer).concat, false, foldConcat},
	"Split":                 {1, 2, (*importer).split, true, nil},
	"Expand":                {2, 2, (*importer).expand, false, nil},
	"Tile":                  {2, 2, (*importer).tile, false, nil},
	"Transpose":             {1, 1, (*importer).transpose, false, foldTranspose},
	"Identity":              {1, 1, (*importer).identity, false, nil},
	"Cast":                  {1, 1, (*importer).cast, false, foldCast},
	"CastLike":              {2, 2, (*importer).castLike, false, nil},
	"QuantizeLinear":        {2, 3, (*importer).quantize, false, foldQuantize},
	"DequantizeLinear":      {2, 3, (*importer).dequantize, false, nil},

	// functions of every element
	"Relu":        {1, 1, (*importer).activation, false, nil},
	"LeakyRelu":   {1, 1, (*importer).activation, false, nil},
	"Elu":         {1, 1, (*importer).activation, false, nil},
	"Selu":        {1, 1, (*importer).activation, false, nil},
	"Sigmoid":     {1, 1, (*importer).activation, false, nil},
	"HardSigmoid": {1, 1, (*importer).activation, false, nil},
	"Tanh":        {1, 1, (*importer).activation, false, nil},
	"Softplus":    {1, 1, (*importer).activation, false, nil},
	"Erf":         {1, 1, (*importer).activation, false, nil},
	"Exp":         {1, 1, (*importer).activation, false, nil},
	"Log":         {1, 1, (*importer).activation, false, nil},
	"Abs":         {1, 1, (*importer).activation, false, nil},
	"Round":       {1, 1, (*importer).activation, false, nil},
	"Neg":         {1, 1, (*importer).activation, false, foldUnary},
	"Sqrt":        {1, 1, (*importer).activation, false, foldUnary},
	"Reciprocal":  {1, 1, (*importer).activation, false, foldUnary},
	"Celu":        {1, 1, (*importer).celu, false, nil},
	"HardSwish":   {1, 1, (*importer).gated, false, nil},
	"Swish":       {1, 1, (*importer).gated, false, nil},
	"Mish":        {1, 1, (*importer).gated, false, nil},
	"Gelu":        {1, 1, (*importer).gelu, false, nil},
	"Softsign":    {1, 1, (*importer).softsign, false, nil},
	"PRelu":       {2, 2, (*importer).prelu, false, nil},
	"Clip":        {1, 3, (*importer).clip, false, nil},
	"Pow":         {2, 2, (*importer).pow, false, nil},
	"Add":         {2, 2, (*importer).arithmetic, false, foldArithmetic},
	"Sub":         {2, 2, (*importer).arithmetic, false, foldArithmetic},
	"Mul":         {2, 2, (*importer).arithmetic, false, foldArithmetic},
	"Div":         {2, 2, (*importer).arithmetic, false, foldArithmetic},
	"Max":         {1, maxChannel, (*importer).extremum, false, nil},
	"Min":         {1, maxChannel, (*importer).extremum, false, nil},
	"Sum":         {1, maxChannel, (*importer).extremum, false, nil},

	// computations with sizes
	"Constant":        {0, 0, (*importer).constantNode, false, nil},
	"Shape":           {1, 1, (*importer).shapeOf, false, nil},
	"Gather":          {2, 2, (*importer).gather, false, nil},
	"Unsqueeze":       {1, 2, (*importer).unsqueeze, false, foldReshape},
	"Squeeze":         {1, 2, (*importer).squeeze, false, foldReshape},
	"Slice":           {1, 5, (*importer).slice, false, nil},
	"Reshape":         {2, 2, (*importer).reshape, false, foldReshape},
	"Flatten":         {1, 1, (*importer).flatten, false, foldReshape},
	"ConstantOfShape": {1, 1, (*importer).constantOfShape, false, nil},
	"Floor":           {1, 1, (*importer).round, false, nil},
	"Ceil":            {1, 1, (*importer).round, false, nil},
}

// onImage hands a rule the image that its operator's first input must be.
func onImage(f func(im *importer, o *operator, a *attributes, x *value) error) func(*importer, *operator, *attributes) error {
	return func(im *importer, o *operator, a *attributes) error {
		x, err := im.image(o, 0)
		if err != nil {
			return err
		}
		return f(im, o, a, x)
	}
}

// Bounds of attributes. They are far beyond any U-Net's and keep every product
// of sizes representable.
const (
	maxWindow  = 255
	maxChannel = 1 << 20
)

// Operators lists the operators that are read, of images or in computations of
// sizes.
func Operators() []string { return slices.Sorted(maps.Keys(rules)) }
