#include "compiler/planner/quality_model.h"

#include "llvm/ADT/STLExtras.h"

#include <cmath>

using namespace llvm;
using namespace moeplan;
using namespace moeplan::compiler;

namespace {

// Mixtral 8x7B, WikiText-2, each relative to the same source's 16 or 8 bits.
constexpr PublishedQuality kPublished[] = {
    {MOEPLAN_FORMAT_INT8G32, 0.0026, "bitsandbytes int8, 3.82 / 3.81 (arXiv 2407.14417)"},
    {MOEPLAN_FORMAT_INT8G64, 0.0026, "bitsandbytes int8, 3.82 / 3.81 (arXiv 2407.14417)"},
    {MOEPLAN_FORMAT_INT8G128, 0.0026, "bitsandbytes int8, 3.82 / 3.81 (arXiv 2407.14417)"},
    {MOEPLAN_FORMAT_INT4G32, 0.0174, "Q4_K_S with importance matrix, 4.1764 / 4.1049"},
    {MOEPLAN_FORMAT_INT4G64, 0.023, "Q4_0 with importance matrix, 4.2001 / 4.1049"},
    {MOEPLAN_FORMAT_INT4G128, 0.038, "AWQ g128, 4.294 / 4.137 (AutoAWQ issue 251)"},
    {MOEPLAN_FORMAT_INT3G32, 0.045, "Q3_K_M with importance matrix, 4.2884 / 4.1049"},
    {MOEPLAN_FORMAT_INT3G64, 0.068, "Q3_K_S with importance matrix, 4.3848 / 4.1049"},
    {MOEPLAN_FORMAT_INT3G128, 0.20, "HQQ 3 bits g64, 4.6119 / 3.84 (MiLo)"},
    {MOEPLAN_FORMAT_INT2G32, 0.23, "Q2_K with importance matrix, 5.0576 / 4.1049"},
    {MOEPLAN_FORMAT_INT2G64, 0.33, "PMQ 2.54 bits, 5.09 / 3.84"},
    {MOEPLAN_FORMAT_INT2G128, 0.54, "HQQ 2 bits, 5.90 / 3.84"},
};

/// Formats that hold what the checkpoint holds.
constexpr moeplan_format kLossless[] = {MOEPLAN_FORMAT_F32, MOEPLAN_FORMAT_BF16};

bool isLossless(const FormatInfo &format) { return is_contained(kLossless, format.id); }

/// In the order of `kFormats`, which is widest first, without f32: bf16 is the reference.
std::vector<const FormatInfo *> formatsWith(function_ref<bool(moeplan_format)> has) {
  std::vector<const FormatInfo *> formats;
  for (const FormatInfo &format : kFormats)
    if (format.id == MOEPLAN_FORMAT_BF16 || has(format.id))
      formats.push_back(&format);
  return formats;
}

} // namespace

ArrayRef<PublishedQuality> moeplan::compiler::publishedQualities() { return kPublished; }

QualityModel QualityModel::fromStatistics(const Statistics &statistics) {
  const fb::Statistics &m = statistics.metadata();
  const uint32_t experts = m.num_layers() * m.num_experts();
  QualityModel model;
  for (const fb::Sensitivity *s : *m.sensitivities()) {
    auto &table = model.nats_[moeplan_format(s->format())];
    table.resize(experts);
    table[s->layer() * m.num_experts() + s->expert()][s->linear()] = std::max(s->predicted(), 0.0);
  }
  model.formats_ = formatsWith([&](moeplan_format id) { return model.nats_.count(id) != 0; });
  model.routing_.resize(experts);
  for (uint32_t layer = 0; layer < m.num_layers(); ++layer) {
    double tokens = 0;
    for (uint32_t e = 0; e < m.num_experts(); ++e)
      tokens += double(statistics.expert(layer, e).tokens());
    for (uint32_t e = 0; e < m.num_experts(); ++e)
      model.routing_[layer * m.num_experts() + e] =
          tokens == 0
              ? double(m.num_experts_per_tok()) / m.num_experts()
              : double(statistics.expert(layer, e).tokens()) / tokens * m.num_experts_per_tok();
  }
  model.source_ = "sensitivities predicted from calibration on " + std::to_string(m.tokens()) +
                  " tokens of this checkpoint";
  return model;
}

QualityModel QualityModel::published(const MixtralConfig &config) {
  const uint32_t experts = config.numLayers * config.numExperts;
  QualityModel model;
  for (const PublishedQuality &quality : kPublished) {
    const double share = std::log1p(quality.perplexityIncrease) / experts / 3;
    model.nats_[quality.format].assign(experts, {share, share, share});
  }
  model.formats_ = formatsWith([&](moeplan_format id) { return model.nats_.count(id) != 0; });
  model.routing_.assign(experts, double(config.numExpertsPerToken) / config.numExperts);
  model.source_ =
      "published perplexities of Mixtral 8x7B at about these bits, shared out evenly over "
      "all experts: no calibration statistics were given";
  return model;
}

bool QualityModel::knows(const FormatInfo &format) const {
  return isLossless(format) || nats_.count(format.id) != 0;
}

double QualityModel::nats(uint32_t expert, Linear linear, const FormatInfo &format) const {
  const auto table = nats_.find(format.id);
  return table == nats_.end() ? 0 : table->second[expert][size_t(linear)];
}
