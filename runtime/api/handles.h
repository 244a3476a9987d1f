// What stands behind the opaque handles of the C API.
#pragma once

#include "moeplan/moeplan.h"
#include "runtime/artifact/artifact.h"
#include "runtime/control/runtime.h"
#include "runtime/session/sampler.h"
#include "runtime/session/session.h"
#include "runtime/support/status.h"
#include "runtime/text/tokenizer.h"

#include <cstring>
#include <memory>
#include <mutex>
#include <new>
#include <string>

struct moeplan_status {
  moeplan_code code;
  std::string message;
};

struct moeplan_artifact {
  std::unique_ptr<moeplan::Artifact> artifact;

  /// Made on first use: most sessions of a server never need it twice.
  moeplan::Result<const moeplan::Tokenizer *> tokenizer() const {
    std::call_once(tokenizerOnce, [this] { tokenizerStatus = loadTokenizer(); });
    if (!tokenizerStatus.ok())
      return tokenizerStatus;
    return tokenizerHolder.get();
  }

private:
  moeplan::Status loadTokenizer() const;
  mutable std::once_flag tokenizerOnce;
  mutable moeplan::Status tokenizerStatus;
  mutable std::unique_ptr<moeplan::Tokenizer> tokenizerHolder;
};

struct moeplan_runtime {
  std::shared_ptr<moeplan::Runtime> runtime;
};

struct moeplan_session {
  std::shared_ptr<moeplan::Runtime> runtime; ///< that the session is of
  moeplan::Session *session;
};

struct moeplan_sampler {
  moeplan::Sampler sampler;
};

struct moeplan_text_decoder {
  moeplan::TextDecoder decoder;
};

namespace moeplan {

/// A status for the caller of the C API: null for success.
moeplan_status *toHandle(Status status);

/// Runs `body` (returning a Status) and turns whatever it throws into a status: no exception
/// crosses the C API.
template <typename Body> moeplan_status *guard(Body &&body) {
  try {
    return toHandle(body());
  } catch (const std::bad_alloc &) {
    return toHandle(exhausted("out of memory"));
  } catch (const std::exception &error) {
    return toHandle(Status(MOEPLAN_INTERNAL, error.what()));
  }
}

/// Copies the caller's options over the defaults: a caller built against an older header passes
/// fewer bytes. Null means defaults.
template <typename Options> Status readOptions(const Options *given, Options &options) {
  if (!given)
    return {};
  if (given->struct_size < sizeof(size_t) || given->struct_size > sizeof(Options))
    return invalidArgument("options.struct_size is " + std::to_string(given->struct_size) +
                           "; set it with the init function");
  std::memcpy(&options, given, given->struct_size);
  return {};
}

inline Status nullArgument(const char *name) {
  return invalidArgument(std::string(name) + " is NULL");
}

} // namespace moeplan
