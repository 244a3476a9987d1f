// What a runtime says of an artifact that it will not open.
#pragma once

#include "runtime/artifact/artifact.h"
#include "tests/support/artifact_builder.h"
#include "tests/support/files.h"

#include <gtest/gtest.h>

#include <functional>
#include <string>

namespace moeplan::testing {

/// What opening the bytes of a file says: "" where it succeeds.
inline std::string refusal(const std::string &file) {
  TemporaryDirectory directory;
  const std::string path = directory.path() / "a.moeplan";
  writeFile(path, file);
  auto artifact = Artifact::open(path);
  if (artifact.ok())
    return "";
  const std::string message = artifact.failure().message();
  EXPECT_TRUE(message.starts_with(path + ": ")) << message;
  EXPECT_EQ(message.find('\n'), std::string::npos) << message;
  return message.substr(std::min(message.size(), path.size() + 2));
}

inline std::string refusal(const std::function<void(ArtifactDraft &)> &change) {
  ArtifactDraft draft;
  change(draft);
  return refusal(draft.build());
}

} // namespace moeplan::testing
