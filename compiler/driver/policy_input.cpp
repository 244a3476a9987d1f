#include "compiler/driver/policy_input.h"

#include "compiler/support/digest.h"

#include "llvm/Support/MemoryBuffer.h"

using namespace llvm;
using namespace moeplan::compiler;

namespace {

/// Gives the text of a file to `parse`; its digest, empty for an empty file.
Expected<std::string> readText(const std::string &path, function_ref<Error(StringRef)> parse) {
  auto text = MemoryBuffer::getFile(path);
  if (!text)
    return createStringError(path + ": " + text.getError().message());
  if (Error error = parse((*text)->getBuffer()))
    return error;
  return (*text)->getBuffer().empty() ? std::string() : digestOf((*text)->getBuffer());
}

Expected<PolicyInput> readPolicy(const CompileOptions &options) {
  PolicyInput input;
  auto digest = readText(options.policy, [&](StringRef text) -> Error {
    auto parsed = parsePolicy(text, options.policy);
    if (!parsed)
      return parsed.takeError();
    input.policy = std::move(*parsed);
    return Error::success();
  });
  if (!digest)
    return digest.takeError();
  input.digest = std::move(*digest);
  return input;
}

/// The policy that the options for formats stand for.
Expected<PolicyInput> makePolicy(const CompileOptions &options) {
  PolicyInput input{defaultPolicy(), {}};
  Tier &tier = input.policy.tiers.front();
  if (!options.expertFormatFile.empty()) {
    auto digest = readText(options.expertFormatFile, [&](StringRef text) -> Error {
      auto rules = parseExpertFormats(text, options.expertFormatFile);
      if (!rules)
        return rules.takeError();
      tier.pins = std::move(*rules);
      return Error::success();
    });
    if (!digest)
      return digest.takeError();
    input.digest = std::move(*digest);
  }
  if (!options.expertFormat.empty()) {
    auto format = resolveFormat(options.expertFormat);
    if (!format)
      return createStringError("--expert-format: " + toString(format.takeError()));
    tier.pins.push_back({"*", *format, ""});
  }
  if (!options.nonExpertFormat.empty()) {
    auto format = resolveFormat(options.nonExpertFormat);
    if (!format)
      return createStringError("--non-expert-format: " + toString(format.takeError()));
    tier.nonExpertFormat = *format;
  }
  return input;
}

} // namespace

Expected<PolicyInput> moeplan::compiler::readPolicyInput(const CompileOptions &options) {
  return options.policy.empty() ? makePolicy(options) : readPolicy(options);
}
