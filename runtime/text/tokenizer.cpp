#include "runtime/text/tokenizer.h"

#include "runtime/text/utf8.h"

#include <sentencepiece_processor.h>

#include <charconv>
#include <limits>

namespace moeplan {
namespace {

constexpr std::string_view replacementCharacter = "\xef\xbf\xbd"; // U+FFFD

/// SentencePiece's reason without the source line and the condition it comes with:
/// "./src/model_interface.cc(64) [condition] reason". It may be empty.
Status failure(moeplan_code code, const char *what, const sentencepiece::util::Status &status) {
  std::string_view reason = status.error_message();
  if (const size_t end = reason.find("] "); reason.find(".cc(") < end && end != reason.npos)
    reason.remove_prefix(end + 2);
  return {code, reason.empty() ? what : std::string(what) + ": " + std::string(reason)};
}

} // namespace

Tokenizer::Tokenizer(std::unique_ptr<sentencepiece::SentencePieceProcessor> processor,
                     uint32_t vocabSize)
    : processor_(std::move(processor)),
      pieceCount_(static_cast<uint32_t>(processor_->GetPieceSize())), vocabSize_(vocabSize) {}

Tokenizer::~Tokenizer() = default;

Result<std::unique_ptr<Tokenizer>> Tokenizer::create(std::span<const std::byte> model,
                                                     uint32_t vocabSize) {
  if (model.size() > static_cast<size_t>(std::numeric_limits<int32_t>::max()))
    return corrupt("tokenizer: more than 2 GiB");
  auto processor = std::make_unique<sentencepiece::SentencePieceProcessor>();
  const auto status = processor->LoadFromSerializedProto(
      {reinterpret_cast<const char *>(model.data()), model.size()});
  if (!status.ok())
    return failure(MOEPLAN_CORRUPT, "tokenizer: not a SentencePiece model", status);
  const auto pieces = static_cast<uint32_t>(processor->GetPieceSize());
  if (pieces > vocabSize)
    return corrupt("tokenizer: " + std::to_string(pieces) + " pieces, the model's vocabulary has " +
                   std::to_string(vocabSize));
  return std::unique_ptr<Tokenizer>(new Tokenizer(std::move(processor), vocabSize));
}

Result<std::vector<int32_t>> Tokenizer::encode(std::string_view text, int32_t bos) const {
  if (text.size() > maxTextBytes)
    return invalidArgument("text of " + std::to_string(text.size()) + " bytes: at most " +
                           std::to_string(maxTextBytes) + " can be tokenised at once");
  if (const size_t offset = findInvalidUtf8(text); offset != std::string_view::npos)
    return invalidArgument("text is not UTF-8: bad byte at offset " + std::to_string(offset));
  std::vector<int32_t> tokens;
  if (const auto status = processor_->Encode(text, &tokens); !status.ok())
    return failure(MOEPLAN_INTERNAL, "SentencePiece failed", status);
  if (bos >= 0)
    tokens.insert(tokens.begin(), bos);
  return tokens;
}

Result<std::string> Tokenizer::decode(std::span<const int32_t> tokens) const {
  std::vector<int> pieces;
  pieces.reserve(tokens.size());
  for (int32_t token : tokens) {
    MOEPLAN_TRY(checkRange(token));
    if (kind(token) != TokenKind::padding)
      pieces.push_back(token);
  }
  std::string text;
  if (const auto status = processor_->Decode(pieces, &text); !status.ok())
    return failure(MOEPLAN_INTERNAL, "SentencePiece failed", status);
  return text;
}

Status Tokenizer::checkRange(int32_t token) const {
  if (kind(token) != TokenKind::invalid)
    return {};
  return invalidArgument("token id " + std::to_string(token) + " is not in [0, " +
                         std::to_string(vocabSize_) + ")");
}

Tokenizer::TokenKind Tokenizer::kind(int32_t token) const {
  if (token < 0 || static_cast<uint32_t>(token) >= vocabSize_)
    return TokenKind::invalid;
  if (static_cast<uint32_t>(token) >= pieceCount_)
    return TokenKind::padding;
  if (processor_->IsControl(token))
    return TokenKind::control;
  return processor_->IsByte(token) ? TokenKind::byte : TokenKind::text;
}

uint8_t Tokenizer::byteValue(int32_t token) const {
  const std::string &piece = processor_->IdToPiece(token); // "<0xE2>"
  uint8_t value = 0;
  if (piece.size() == 6)
    std::from_chars(piece.data() + 3, piece.data() + 5, value, 16);
  return value;
}

Result<std::string_view> TextDecoder::push(int32_t token) {
  MOEPLAN_TRY(tokenizer_->checkRange(token));
  const Tokenizer::TokenKind kind = tokenizer_->kind(token);
  text_.clear();
  if (kind == Tokenizer::TokenKind::padding)
    return std::string_view(text_);
  if (kind == Tokenizer::TokenKind::control) {
    emitReplacements();
    return std::string_view(text_);
  }
  if (kind == Tokenizer::TokenKind::byte) {
    heldBack_ += static_cast<char>(tokenizer_->byteValue(token));
    emitCompleteCharacters();
  } else {
    emitReplacements();
    // The leading-space rule looks at what came before only to see whether it is the first text.
    // One earlier token says that as well as all of them.
    const int32_t window[] = {context_, token};
    const bool first = context_ < 0;
    MOEPLAN_ASSIGN(const std::string decoded,
                   tokenizer_->decode({window + (first ? 1 : 0), window + 2}));
    text_.append(decoded, contextBytes_, std::string::npos);
  }
  // Kept from the first token that has text on, and until then the latest: a lone space that opened
  // the text has none, and still the space behind it counts.
  if (contextBytes_ == 0) {
    MOEPLAN_ASSIGN(const std::string contextText, tokenizer_->decode({&token, 1}));
    context_ = token;
    contextBytes_ = contextText.size();
  }
  return std::string_view(text_);
}

std::string_view TextDecoder::finish() {
  text_.clear();
  emitReplacements();
  context_ = -1;
  contextBytes_ = 0;
  return text_;
}

void TextDecoder::emitCompleteCharacters() {
  size_t offset = 0;
  while (offset < heldBack_.size()) {
    const Utf8Prefix prefix = utf8Prefix(std::string_view(heldBack_).substr(offset));
    if (prefix.state == Utf8State::incomplete)
      break;
    if (prefix.state == Utf8State::complete) {
      text_.append(heldBack_, offset, prefix.bytes);
      offset += prefix.bytes;
    } else { // as SentencePiece does it: one U+FFFD for one byte
      text_ += replacementCharacter;
      ++offset;
    }
  }
  heldBack_.erase(0, offset);
}

void TextDecoder::emitReplacements() {
  for (size_t i = 0; i < heldBack_.size(); ++i)
    text_ += replacementCharacter;
  heldBack_.clear();
}

} // namespace moeplan
