"""The ONNX operators that a network may have, and the limits of its size.

The list holds what convolutional networks and vision transformers are exported with. All of them compute one output of
a size that follows from the sizes of their inputs: no loops, branches, sequences, strings or random numbers, no sorting
and no operators whose result's size depends on values (NonZero, Unique, TopK with a computed k).
"""

from __future__ import annotations


def _names(listed: str) -> frozenset[str]:
    return frozenset(listed.split())


SHAPES = _names(
    "Cast CastLike Concat Constant ConstantOfShape DepthToSpace Dropout Expand Flatten Gather GatherElements "
    "GatherND Identity Pad Range Reshape Resize Shape Size Slice SpaceToDepth Split Squeeze Tile Transpose Trilu "
    "Unsqueeze Where"
)
ARITHMETIC = _names(
    "Abs Add And Ceil Clip Cos Div Equal Erf Exp Floor Greater GreaterOrEqual Less LessOrEqual Log Max Mean Min Mod "
    "Mul Neg Not Or Pow Reciprocal Round Sign Sin Sqrt Sub Sum"
)
ACTIVATIONS = _names(
    "Celu Elu Gelu HardSigmoid HardSwish LeakyRelu LogSoftmax Mish PRelu Relu Selu Sigmoid Softmax Softplus "
    "Softsign Tanh ThresholdedRelu"
)
NORMALISATIONS = _names(
    "BatchNormalization GroupNormalization InstanceNormalization LayerNormalization LRN LpNormalization "
    "RMSNormalization"
)
REDUCTIONS = _names(
    "ArgMax ArgMin GlobalAveragePool GlobalLpPool GlobalMaxPool ReduceL1 ReduceL2 ReduceLogSum ReduceLogSumExp "
    "ReduceMax ReduceMean ReduceMin ReduceProd ReduceSum ReduceSumSquare"
)
POOLS = _names("AveragePool LpPool MaxPool")
CONVOLUTIONS = _names("Conv ConvInteger ConvTranspose QLinearConv")
PRODUCTS = _names("Gemm MatMul MatMulInteger QLinearMatMul")
QUANTISATION = _names("DequantizeLinear DynamicQuantizeLinear QuantizeLinear")

OPERATORS = frozenset().union(
    SHAPES, ARITHMETIC, ACTIVATIONS, NORMALISATIONS, REDUCTIONS, POOLS, CONVOLUTIONS, PRODUCTS, QUANTISATION
)
# Of one tensor, to one of the same type and shape.
UNARY = _names(
    "Abs Ceil Celu Clip Cos Dropout Elu Erf Exp Floor Gelu GroupNormalization HardSigmoid HardSwish Identity "
    "LeakyRelu Log LogSoftmax Mish Neg Reciprocal Relu Round Selu Sigmoid Sign Sin Softmax Softplus Softsign Sqrt "
    "Tanh ThresholdedRelu"
)
# Of two tensors, broadcast, to one of the same type.
BINARY = _names("Add Div Mul Sub")

# A ViT-L/14 has 1,500 nodes and 350 weights, EfficientAD in one graph 400 and 100.
MAX_NODES = 10_000
MAX_WEIGHTS = 20_000
MAX_AXES = 8
# Elements of one tensor that is computed: 1 GiB of float32. ViT-L/14 at 700 px has attention maps of 100 million.
MAX_ELEMENTS = 1 << 28
# Elements of a list of whole numbers, such as a shape or indices.
MAX_LIST = 1 << 16
# Bytes of all tensors that are needed at the same time, weights excluded.
MAX_LIVE_BYTES = 3 << 30
# Multiplications of a run, other operations by their cost (`budget.py`). A wide_resnet50_2 at 1024 px has 2.7e11, and
# a ViT-S/14 at 700 px; EfficientNet-Lite0 at 320 px has 4e9. Two cores with AVX2 do about 8e10 a second.
MAX_WORK = 1.2e12
# Messages and values in the file, of which a parser makes objects of a hundred bytes; a ViT-L/14 has 60,000.
MAX_FIELDS = 1_000_000
# Bytes of packed whole numbers, of which a parser makes eight each.
MAX_PACKED_BYTES = 64 << 20
# Sizes of the shapes and indices whose values are followed.
MAX_FOLDED = 1024
