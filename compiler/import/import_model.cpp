#include "compiler/import/import_model.h"

#include "dialects/moe/MoeDialect.h"

#include "mlir/Dialect/Func/IR/FuncOps.h"
#include "mlir/IR/Builders.h"

using namespace mlir;
using namespace moeplan;
using namespace moeplan::compiler;

namespace {

/// Builds one module. Weight symbols are short names of our own (`layers.3.experts.5.w1`); each
/// keeps the checkpoint's name as its source.
class ModelImporter {
public:
  ModelImporter(MLIRContext &context, const Checkpoint &checkpoint)
      : checkpoint(checkpoint), config(checkpoint.config()), builder(&context),
        loc(builder.getUnknownLoc()) {}

  OwningOpRef<ModuleOp> run() {
    OwningOpRef<ModuleOp> module = ModuleOp::create(loc);
    (*module)->setAttr(moe::kConfigAttrName, configAttr());
    builder.setInsertionPointToEnd(module->getBody());

    auto tokens = RankedTensorType::get({ShapedType::kDynamic}, builder.getI32Type());
    auto function = builder.create<func::FuncOp>(
        loc, moe::kForwardName,
        builder.getFunctionType({tokens}, {activationType(config.vocabSize)}));
    function.setPrivate();
    Block *body = function.addEntryBlock();
    weightPoint = Block::iterator(function);
    weightBlock = module->getBody();
    builder.setInsertionPointToStart(body);

    FlatSymbolRefAttr embedding = weight("embedding", "model.embed_tokens.weight");
    Value x = builder.create<moe::EmbeddingOp>(loc, activationType(config.hiddenSize),
                                               body->getArgument(0), embedding);
    for (uint32_t layer = 0; layer < config.numLayers; ++layer)
      x = decoderLayer(x, layer);
    x = norm(x, weight("norm", "model.norm.weight"));
    FlatSymbolRefAttr output =
        config.tieWordEmbeddings ? embedding : weight("output", "lm_head.weight");
    Value logits = builder.create<moe::LogitsOp>(loc, activationType(config.vocabSize), x, output);
    builder.create<func::ReturnOp>(loc, logits);
    return module;
  }

private:
  RankedTensorType activationType(int64_t features) {
    return RankedTensorType::get({ShapedType::kDynamic, features}, builder.getF32Type());
  }

  IntegerAttr i64(int64_t value) { return builder.getI64IntegerAttr(value); }

  moe::ConfigAttr configAttr() {
    SmallVector<int64_t> eos(config.eosTokenIds.begin(), config.eosTokenIds.end());
    return moe::ConfigAttr::get(
        builder.getContext(), config.vocabSize, config.hiddenSize, config.intermediateSize,
        config.numLayers, config.numAttentionHeads, config.numKeyValueHeads, config.headDim,
        config.numExperts, config.numExpertsPerToken, builder.getF64FloatAttr(config.rmsNormEps),
        builder.getF64FloatAttr(config.ropeTheta), config.slidingWindow,
        config.maxPositionEmbeddings, config.tieWordEmbeddings, config.bosTokenId,
        builder.getDenseI64ArrayAttr(eos));
  }

  Type elementType(DType dtype) {
    switch (dtype) {
    case DType::F32:
      return builder.getF32Type();
    case DType::F16:
      return builder.getF16Type();
    case DType::BF16:
      return builder.getBF16Type();
    }
    llvm_unreachable("all dtypes are handled");
  }

  /// Declares the checkpoint tensor `source` as weight `name`, before the function.
  FlatSymbolRefAttr weight(const Twine &name, const Twine &source) {
    const TensorInfo &tensor = checkpoint.tensors().at(source.str());
    OpBuilder::InsertionGuard guard(builder);
    builder.setInsertionPoint(weightBlock, weightPoint);
    SmallVector<int64_t> shape(tensor.shape.begin(), tensor.shape.end());
    auto op = builder.create<moe::WeightOp>(
        loc, name.str(), RankedTensorType::get(shape, elementType(tensor.dtype)), tensor.name,
        checkpoint.files()[tensor.file], tensor.offset);
    return FlatSymbolRefAttr::get(op);
  }

  Value norm(Value x, FlatSymbolRefAttr weight) {
    return builder.create<moe::RmsNormOp>(loc, x, weight,
                                          builder.getF64FloatAttr(config.rmsNormEps));
  }

  Value decoderLayer(Value x, uint32_t layer) {
    std::string name = ("layers." + Twine(layer) + ".").str();
    std::string source = ("model." + Twine(name)).str();
    auto projection = [&](StringRef which) {
      return weight(name + "attention." + which, source + "self_attn." + which + "_proj.weight");
    };

    Value normed = norm(x, weight(name + "attention_norm", source + "input_layernorm.weight"));
    FlatSymbolRefAttr q = projection("q"), k = projection("k"), v = projection("v"),
                      o = projection("o");
    Value attention = builder.create<moe::AttentionOp>(
        loc, x.getType(), normed, Value(), i64(layer), q, k, v, o, i64(config.numAttentionHeads),
        i64(config.numKeyValueHeads), i64(config.headDim),
        builder.getF64FloatAttr(config.ropeTheta), i64(config.slidingWindow));
    x = builder.create<moe::AddOp>(loc, x, attention);

    normed = norm(x, weight(name + "ffn_norm", source + "post_attention_layernorm.weight"));
    FlatSymbolRefAttr gate = weight(name + "router", source + "block_sparse_moe.gate.weight");
    auto ids = RankedTensorType::get({ShapedType::kDynamic, config.numExpertsPerToken},
                                     builder.getI32Type());
    auto router = builder.create<moe::RouterOp>(loc, ids, activationType(config.numExpertsPerToken),
                                                normed, gate);
    SmallVector<Attribute> experts;
    for (uint32_t e = 0; e < config.numExperts; ++e) {
      auto linear = [&](StringRef which) {
        return weight(name + "experts." + Twine(e) + "." + which,
                      source + "block_sparse_moe.experts." + Twine(e) + "." + which + ".weight");
      };
      FlatSymbolRefAttr w1 = linear("w1"), w3 = linear("w3"), w2 = linear("w2");
      experts.push_back(
          moe::ExpertAttr::get(builder.getContext(), w1, w3, w2, moe::PlacementAttr()));
    }
    Value routed = builder.create<moe::ExpertsOp>(loc, x.getType(), normed, router.getIds(),
                                                  router.getWeights(), Value(), layer,
                                                  builder.getArrayAttr(experts));
    return builder.create<moe::AddOp>(loc, x, routed);
  }

  const Checkpoint &checkpoint;
  const MixtralConfig &config;
  OpBuilder builder;
  Location loc;
  Block *weightBlock = nullptr;
  Block::iterator weightPoint;
};

} // namespace

OwningOpRef<ModuleOp> moeplan::compiler::importModel(MLIRContext &context,
                                                     const Checkpoint &checkpoint) {
  return ModelImporter(context, checkpoint).run();
}
