#include "compiler/calibrate/calibrate.h"

#include "compiler/calibrate/held_out.h"
#include "compiler/calibrate/moments.h"
#include "compiler/calibrate/statistics_writer.h"
#include "compiler/calibrate/weight_quantizer.h"
#include "compiler/driver/compile.h"
#include "compiler/pack/temporary_file.h"
#include "compiler/policy/policy.h"
#include "compiler/quantize/convert.h"
#include "compiler/support/digest.h"
#include "formats.h"
#include "runtime/text/tokenizer.h"

#include "llvm/ADT/StringExtras.h"
#include "llvm/Support/FileSystem.h"
#include "llvm/Support/MemoryBuffer.h"
#include "llvm/Support/Process.h"
#include "llvm/Support/Signals.h"

#include <cmath>

using namespace llvm;
using namespace moeplan;
using namespace moeplan::compiler;

namespace {

/// Every tenth window is kept aside.
constexpr uint32_t kHeldOutEvery = 10;
/// What the probes are quantised to: coarse enough to show, fine enough to be small.
constexpr const char *kProbeFormat = "int3g32";
/// Panels of a weight that its predicted error is taken from; more are sampled evenly.
constexpr uint64_t kPanelsForPrediction = 64;

Error toError(Status status) { return createStringError(std::move(status).message()); }

/// Beside the output.
std::string temporaryPath(StringRef output, StringRef extension) {
  return (output + ".tmp-" + Twine(sys::Process::getProcessId()) + extension).str();
}

class Calibrator {
public:
  explicit Calibrator(const CalibrateOptions &options)
      : options(options), artifactFile(temporaryPath(options.output, ".moeplan")),
        momentsFile(temporaryPath(options.output, ".moments")),
        pool(hardware_concurrency(options.threads)) {}

  Expected<CalibrateReport> run() {
    if (Error error = openInputs())
      return error;
    if (Error error = splitText())
      return error;
    if (Error error = compileModel())
      return error;
    if (Error error = collect())
      return error;
    auto momentsOnly = Statistics::open(momentsFile.path(), head.checkpointDigest);
    if (!momentsOnly)
      return momentsOnly.takeError();
    statistics = std::move(*momentsOnly);
    quantizer.emplace(statistics.get(), QuantizerChoice(), options.threads);
    if (Error error = scoreReference())
      return error;
    if (Error error = predict())
      return error;
    if (options.measure)
      if (Error error = measure())
        return error;
    // The moments again, with all that was learnt from them.
    auto bytes = writeStatistics(
        *output, head, expertMoments, sensitivities, [&](uint64_t index, bool hidden) {
          const SecondMoments m =
              statistics->moments(linear(index, hidden ? Linear::w2 : Linear::w1));
          return std::vector<float>(m.values, m.values + momentCount(m.columns, m.block));
        });
    if (!bytes)
      return bytes.takeError();
    report.fileBytes = *bytes;
    return report;
  }

private:
  ExpertLinear linear(uint64_t index, Linear which) const {
    return {uint32_t(index / head.numExperts), uint32_t(index % head.numExperts), which};
  }

  void progress(const char *label, uint64_t done, uint64_t total, const char *unit) const {
    if (options.progress)
      options.progress(label, done, total, unit);
  }

  Error openInputs() {
    for (const std::string &name : options.formats) {
      auto resolved = resolveFormat(name);
      if (!resolved)
        return resolved.takeError();
      const FormatInfo *format = findFormat(std::string_view(*resolved));
      if (!format->isPacked())
        return createStringError("'" + name + "' is no format that is quantised");
      formats.push_back(format);
    }
    auto file = AtomicFile::create(options.output);
    if (!file)
      return file.takeError();
    output.emplace(std::move(*file));
    auto opened = Checkpoint::open(options.checkpoint);
    if (!opened)
      return opened.takeError();
    checkpoint = std::move(*opened);
    if (checkpoint->tokenizer().empty())
      return createStringError(options.checkpoint +
                               ": has no tokenizer.model, calibrating on a text needs it");

    const MixtralConfig &config = checkpoint->config();
    head.compilerVersion = MOEPLAN_VERSION;
    head.hiddenSize = config.hiddenSize;
    head.intermediateSize = config.intermediateSize;
    head.numLayers = config.numLayers;
    head.numExperts = config.numExperts;
    head.numExpertsPerToken = config.numExpertsPerToken;
    head.context = options.context ? options.context : std::min(512u, config.maxPositionEmbeddings);
    if (head.context < 2)
      return createStringError("a context of one position scores no token");
    if (config.bosTokenId < 0)
      return createStringError("the model has no BOS token: windows would have nothing to start "
                               "with");
    return Error::success();
  }

  /// The model as an artifact that expert weights can be swapped in, and a session of it.
  Error compileModel() {
    CompileOptions compilation;
    compilation.checkpoint = options.checkpoint;
    compilation.output = artifactFile.path();
    // Beside f32 weights activations are float32, which is what the moments are summed from.
    compilation.alsoFormats = {kProbeFormat, "f32"};
    for (const FormatInfo *format : formats)
      compilation.alsoFormats.emplace_back(format->name);
    // What the checkpoint holds, exactly.
    const bool wide = any_of(checkpoint->tensors(), [](const auto &entry) {
      return entry.second.dtype != DType::BF16 &&
             StringRef(entry.first).contains(".block_sparse_moe.experts.");
    });
    compilation.expertFormat = wide ? "f32" : "bf16";
    compilation.progress = options.progress;
    auto compiled = compile(compilation);
    if (!compiled)
      return compiled.takeError();
    Result<std::unique_ptr<Artifact>> mapped = Artifact::open(artifactFile.path());
    if (!mapped.ok())
      return toError(std::move(mapped).status());
    artifact = std::move(mapped).value();
    head.checkpointDigest = artifact->metadata().provenance()->checkpoint_digest()->str();
    Result<std::unique_ptr<Session>> created = Session::create(
        *artifact, {.plan = nullptr, .contextLength = head.context, .threads = options.threads});
    if (!created.ok())
      return toError(std::move(created).status());
    session = std::move(created).value();
    return Error::success();
  }

  Error splitText() {
    const MixtralConfig &config = checkpoint->config();
    auto text = MemoryBuffer::getFile(options.text);
    if (!text)
      return createStringError(options.text + ": " + text.getError().message());
    const StringRef content = (*text)->getBuffer();
    if (content.empty())
      return createStringError(options.text + ": is empty");
    head.textDigest = digestOf(content);

    const ArrayRef<uint8_t> model = checkpoint->tokenizer();
    auto tokenizer =
        Tokenizer::create(std::as_bytes(std::span(model.data(), model.size())), config.vocabSize);
    if (!tokenizer.ok())
      return toError(std::move(tokenizer).status().withContext("tokenizer.model"));
    auto encoded = tokenizer.value()->encode(std::string_view(content), -1);
    if (!encoded.ok())
      return toError(std::move(encoded).status().withContext(options.text));
    std::vector<int32_t> tokens = std::move(encoded).value();
    if (options.maxTokens && tokens.size() > options.maxTokens)
      tokens.resize(options.maxTokens);

    const uint64_t scored = head.context - 1, count = tokens.size() / scored;
    if (count < 2)
      return createStringError(options.text + ": " + Twine(tokens.size()) +
                               " tokens, calibration needs two windows of " + Twine(scored) +
                               ", one of them held out (see --context and --max-tokens)");
    const uint64_t rowBytes = uint64_t(config.vocabSize) * sizeof(float);
    const uint64_t mostHeldOut =
        std::max<uint64_t>(1, options.memoryLimit / 4 / (scored * rowBytes));
    collected.context = heldOutWindows.context = head.context;
    for (uint64_t i = 0; i < count; ++i) {
      std::vector<int32_t> window{config.bosTokenId};
      window.insert(window.end(), tokens.begin() + ptrdiff_t(i * scored),
                    tokens.begin() + ptrdiff_t((i + 1) * scored));
      const bool heldOut =
          i % kHeldOutEvery == kHeldOutEvery - 1 || (count < kHeldOutEvery && i + 1 == count);
      if (!heldOut)
        collected.windows.push_back(std::move(window));
      else if (heldOutWindows.windows.size() < mostHeldOut)
        heldOutWindows.windows.push_back(std::move(window));
    }
    head.windows = report.windows = uint32_t(collected.windows.size());
    head.heldOutWindows = report.heldOutWindows = uint32_t(heldOutWindows.windows.size());
    head.tokens = report.tokens = head.windows * uint64_t(head.context);
    return Error::success();
  }

  Error collect() {
    const uint64_t experts = uint64_t(head.numLayers) * head.numExperts;
    const MomentBlocks blocks =
        chooseMomentBlocks(head.hiddenSize, head.intermediateSize, experts, options.memoryLimit);
    const uint64_t least = experts * (MomentSum::bytes(head.hiddenSize, blocks.input) +
                                      MomentSum::bytes(head.intermediateSize, blocks.hidden));
    if (least > options.memoryLimit)
      return createStringError("the memory limit of " + Twine(options.memoryLimit) +
                               " bytes is too small: even diagonals take " + Twine(least));
    report.inputBlock = blocks.input;
    report.hiddenBlock = blocks.hidden;
    MomentCollector collector(*artifact, blocks.input, blocks.hidden, pool);
    session->setObserver(&collector);
    uint64_t done = 0;
    for (const std::vector<int32_t> &window : collected.windows) {
      session->reset();
      if (Status status = session->append(window, window.size()); !status.ok())
        return toError(std::move(status));
      done += window.size();
      progress("calibrate", done, head.tokens, "tokens");
    }
    session->setObserver(nullptr);

    for (const MomentCollector::Expert &expert : collector.experts()) {
      if (!std::isfinite(expert.routingWeight) || !expert.input.isFinite() ||
          !expert.hidden.isFinite())
        return createStringError("the model's activations are not finite on " + options.text);
      expertMoments.push_back(
          {expert.tokens, expert.routingWeight, uint32_t(blocks.input), uint32_t(blocks.hidden)});
      if (expert.tokens < WeightQuantizer::kFewestTokens)
        report.hardlyReached.push_back(linear(expertMoments.size() - 1, Linear::w1).expertName());
    }
    auto file = AtomicFile::create(momentsFile.path());
    if (!file)
      return file.takeError();
    auto bytes = writeStatistics(*file, head, expertMoments, {}, [&](uint64_t index, bool hidden) {
      const MomentCollector::Expert &expert = collector.experts()[index];
      return hidden ? expert.hidden.triangles() : expert.input.triangles();
    });
    return bytes ? Error::success() : bytes.takeError();
  }

  Error scoreReference() {
    auto created =
        HeldOut::create(*session, std::move(heldOutWindows), artifact->model().vocab_size());
    if (!created.ok())
      return toError(std::move(created).status());
    heldOut.emplace(std::move(created).value());
    head.heldOutNll = heldOut->negativeLogLikelihood();
    return Error::success();
  }

  const TensorInfo &tensorOf(const ExpertLinear &which) const {
    return checkpoint->tensors().at(("model.layers." + Twine(which.layer) +
                                     ".block_sparse_moe.experts." + Twine(which.expert) + "." +
                                     kLinearNames[int(which.linear)] + ".weight")
                                        .str());
  }
  TensorView viewOf(const ExpertLinear &which) const {
    const TensorInfo &tensor = tensorOf(which);
    return {tensor.name, tensor.dtype, checkpoint->bytes(tensor).data(), tensor.shape[0],
            tensor.shape[1]};
  }

  /// What the squared error of each row of w1 and w3 counts for in the layer's output: see
  /// calibrate().
  std::vector<float> rowGains(uint32_t layer, uint32_t expert) const {
    const TensorView down = viewOf({layer, expert, Linear::w2});
    std::vector<float> gains(down.columns), row(down.columns);
    for (uint64_t r = 0; r < down.rows; ++r) {
      decodeElements(down.dtype, down.data + r * down.columns * dtypeBytes(down.dtype),
                     down.columns, row.data());
      for (uint64_t k = 0; k < down.columns; ++k)
        gains[k] += row[k] * row[k];
    }
    return gains;
  }

  /// Added to the layer's squared output per token.
  Expected<double> outputError(const ExpertLinear &which, const FormatInfo &format,
                               ArrayRef<float> gains) {
    auto error = quantizer->error(which.name(), viewOf(which), format, gains, kPanelsForPrediction);
    if (!error)
      return error.takeError();
    return *error / double(head.tokens);
  }

  Expected<std::vector<uint8_t>> quantized(const ExpertLinear &which, const FormatInfo &format) {
    const TensorView view = viewOf(which);
    std::vector<uint8_t> bytes(*formatBytes(format, view.rows, view.columns));
    if (Error error = quantizer->quantize(which.name(), view, format, bytes))
      return error;
    return bytes;
  }

  Error replace(const ExpertLinear &which, const uint8_t *data, const FormatInfo &format) {
    Status status = session->replaceExpertWeight(which.layer, which.expert, which.linear, data,
                                                 fb::Format(format.id));
    return status.ok() ? Error::success() : toError(std::move(status));
  }
  Error restore(const ExpertLinear &which) {
    const fb::Expert &expert = *artifact->metadata().plans()->Get(0)->experts()->Get(
        which.layer * head.numExperts + which.expert);
    const uint32_t segments[] = {expert.w1(), expert.w3(), expert.w2()};
    const uint32_t segment = segments[int(which.linear)];
    const auto format = artifact->metadata().segments()->Get(segment)->format();
    Status status = session->replaceExpertWeight(which.layer, which.expert, which.linear,
                                                 artifact->weight(segment).data(), format);
    return status.ok() ? Error::success() : toError(std::move(status));
  }

  Expected<HeldOutScore> score() {
    Result<HeldOutScore> result = heldOut->score(*session);
    if (!result.ok())
      return toError(std::move(result).status());
    return result.value();
  }

  /// The divergence from the reference with one kind of linear of all experts of a layer in the
  /// probes' format.
  Expected<double> probe(uint32_t layer, Linear which) {
    std::vector<std::vector<uint8_t>> kept;
    for (uint32_t e = 0; e < head.numExperts; ++e) {
      auto bytes = quantized({layer, e, which}, probeFormat);
      if (!bytes)
        return bytes.takeError();
      kept.push_back(std::move(*bytes));
      if (Error failed = replace({layer, e, which}, kept.back().data(), probeFormat))
        return failed;
    }
    auto scored = score();
    for (uint32_t e = 0; e < head.numExperts; ++e)
      if (Error failed = restore({layer, e, which}))
        return failed;
    if (!scored)
      return scored.takeError();
    return std::max(scored->divergence, 0.0);
  }

  /// The sensitivities of one kind of linear in one layer. `gains` are the rows' of each expert.
  Error predict(uint32_t layer, Linear which, ArrayRef<std::vector<float>> gains) {
    double probed = 0;          // squared error of all experts in the probes' format
    std::vector<double> errors; // [expert][format]
    for (uint32_t e = 0; e < head.numExperts; ++e) {
      const ExpertLinear one{layer, e, which};
      const ArrayRef<float> rows = which == Linear::w2 ? ArrayRef<float>() : ArrayRef(gains[e]);
      std::optional<double> inProbeFormat;
      for (const FormatInfo *format : formats) {
        auto error = outputError(one, *format, rows);
        if (!error)
          return error.takeError();
        errors.push_back(*error);
        if (format == &probeFormat)
          inProbeFormat = *error;
      }
      if (!inProbeFormat) {
        auto error = outputError(one, probeFormat, rows);
        if (!error)
          return error.takeError();
        inProbeFormat = *error;
      }
      probed += *inProbeFormat;
    }
    auto divergence = probe(layer, which);
    if (!divergence)
      return divergence.takeError();
    const double factor = probed > 0 ? *divergence / probed : 0.0;
    for (uint32_t e = 0; e < head.numExperts; ++e) {
      for (size_t f = 0; f < formats.size(); ++f)
        sensitivities.emplace_back(layer, e, uint16_t(which), uint16_t(formats[f]->id), false,
                                   factor * errors[e * formats.size() + f], 0.0, 0.0, 0.0);
      checkpoint->release(tensorOf({layer, e, which}));
    }
    return Error::success();
  }

  Error predict() {
    const uint64_t total = uint64_t(head.numLayers) * std::size(kLinears);
    uint64_t done = 0;
    for (uint32_t layer = 0; layer < head.numLayers; ++layer) {
      std::vector<std::vector<float>> gains;
      for (uint32_t e = 0; e < head.numExperts; ++e)
        gains.push_back(rowGains(layer, e));
      for (Linear which : kLinears) {
        if (Error error = predict(layer, which, gains))
          return error;
        progress("predict", ++done, total, "linears");
      }
    }
    return Error::success();
  }

  Error measure() {
    uint64_t done = 0;
    for (fb::Sensitivity &s : sensitivities) {
      const ExpertLinear one{s.layer(), s.expert(), Linear(s.linear())};
      const FormatInfo &format = *findFormat(uint32_t(s.format()));
      auto bytes = quantized(one, format);
      if (!bytes)
        return bytes.takeError();
      if (Error error = replace(one, bytes->data(), format))
        return error;
      auto scored = score();
      if (Error error = restore(one))
        return error;
      if (!scored)
        return scored.takeError();
      s = fb::Sensitivity(s.layer(), s.expert(), s.linear(), s.format(), true, s.predicted(),
                          scored->divergence, scored->increase, scored->standardError);
      progress("measure", ++done, sensitivities.size(), "swaps");
    }
    return Error::success();
  }

  const CalibrateOptions &options;
  CalibrateReport report;
  StatisticsHead head;
  TemporaryFile artifactFile, momentsFile;
  DefaultThreadPool pool;
  const FormatInfo &probeFormat = *findFormat(std::string_view(kProbeFormat));
  std::vector<const FormatInfo *> formats;
  std::optional<AtomicFile> output;
  std::unique_ptr<Checkpoint> checkpoint;
  std::unique_ptr<Artifact> artifact;
  std::unique_ptr<Session> session;
  TextWindows collected, heldOutWindows;
  std::vector<ExpertMoments> expertMoments;
  std::unique_ptr<Statistics> statistics;
  std::optional<WeightQuantizer> quantizer;
  std::optional<HeldOut> heldOut;
  std::vector<fb::Sensitivity> sensitivities;
};

} // namespace

Expected<CalibrateReport> moeplan::compiler::calibrate(const CalibrateOptions &options) {
  return Calibrator(options).run();
}
