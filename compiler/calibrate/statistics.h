// Calibration statistics on disk: what a checkpoint's experts were fed.
#pragma once

#include "compiler/import/input_file.h"
#include "compiler/quantize/hessian.h"
#include "expert_kernels.h"
#include "moestats_generated.h"

#include "llvm/Support/Error.h"

#include <memory>
#include <string>
#include <vector>

namespace moeplan::compiler {

/// The parts of "layers.3.experts.5.w2".
struct ExpertLinear {
  uint32_t layer, expert;
  Linear linear;

  /// Nothing where `name` is not the name of an expert's linear.
  static std::optional<ExpertLinear> parse(llvm::StringRef name);
  std::string name() const;
  std::string expertName() const; ///< "layers.3.experts.5"
};

/// An open .moestats file, mapped and checked: every index and range in it holds, and every block
/// of moments has its checksum. Immutable; may be used from several threads.
class Statistics {
public:
  /// Errors are one line that names the file. `checkpointDigest`: refuses statistics of another
  /// checkpoint; empty: any.
  static llvm::Expected<std::unique_ptr<Statistics>> open(llvm::StringRef path,
                                                          llvm::StringRef checkpointDigest);

  const fb::Statistics &metadata() const { return *metadata_; }
  /// XXH3-128 in hex of the whole file: provenance.
  std::string digest() const;
  const fb::ExpertStatistics &expert(uint32_t layer, uint32_t expert) const {
    return *metadata_->experts()->Get(layer * metadata_->num_experts() + expert);
  }
  /// Of the input of a linear; borrowed.
  SecondMoments moments(const ExpertLinear &linear) const;
  /// Lets the system have their memory back, until they are read again.
  void release(const ExpertLinear &linear) const;
  /// Of their numbers and how they are laid out.
  std::string momentsDigest(const ExpertLinear &linear) const;

private:
  Statistics() = default;
  const fb::Moments &momentsOf(const ExpertLinear &linear) const;
  llvm::Error read(llvm::StringRef path);
  llvm::Error checkMoments(const fb::Moments &moments, uint64_t columns) const;

  InputFile file_;
  const fb::Statistics *metadata_ = nullptr;
};

} // namespace moeplan::compiler
