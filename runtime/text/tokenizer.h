// Text to token ids and back, by the SentencePiece model that the artifact carries.
#pragma once

#include "runtime/support/status.h"

#include <cstddef>
#include <cstdint>
#include <memory>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace sentencepiece {
class SentencePieceProcessor;
}

namespace moeplan {

/// A SentencePiece model. Immutable once created: any number of threads may use one.
class Tokenizer {
public:
  /// Most bytes of text for one encode(): SentencePiece counts positions in 32 bits and holds
  /// about a hundred bytes per byte of text.
  static constexpr size_t maxTextBytes = size_t{256} << 20;

  /// What a token stands for in a text.
  enum class TokenKind {
    text,    ///< a piece of text, or the unknown token, which SentencePiece writes as " ⁇ "
    byte,    ///< one byte of a UTF-8 sequence (byte fallback)
    control, ///< no text; BOS, EOS and their like. It ends a UTF-8 sequence
    padding, ///< no text and no piece: an id between the number of pieces and vocab_size
    invalid, ///< not in [0, vocab_size)
  };

  /// `model` is a serialised SentencePiece ModelProto (the bytes of `tokenizer.model`) and is
  /// copied. `vocabSize` is the model's, at least the number of pieces. Errors: MOEPLAN_CORRUPT.
  static Result<std::unique_ptr<Tokenizer>> create(std::span<const std::byte> model,
                                                   uint32_t vocabSize);
  ~Tokenizer();

  /// Token ids of `text`, preceded by `bos` unless that is -1. The text is encoded as a whole: a
  /// "</s>" in it is text, never the control token. NUL bytes are text like any other character
  /// (byte fallback encodes them). Errors: MOEPLAN_INVALID_ARGUMENT where `text` is not UTF-8,
  /// since SentencePiece would silently replace the bytes, or is longer than maxTextBytes.
  Result<std::vector<int32_t>> encode(std::string_view text, int32_t bos) const;

  /// Text of the whole sequence; a byte that is not part of a UTF-8 character becomes U+FFFD.
  /// Errors: MOEPLAN_INVALID_ARGUMENT for an id that is out of range.
  Result<std::string> decode(std::span<const int32_t> tokens) const;

  TokenKind kind(int32_t token) const;
  /// The byte that a token of kind `byte` stands for.
  uint8_t byteValue(int32_t token) const;
  /// Success where `token` is in [0, vocab_size), MOEPLAN_INVALID_ARGUMENT otherwise.
  Status checkRange(int32_t token) const;

private:
  Tokenizer(std::unique_ptr<sentencepiece::SentencePieceProcessor> processor, uint32_t vocabSize);

  std::unique_ptr<sentencepiece::SentencePieceProcessor> processor_;
  uint32_t pieceCount_;
  uint32_t vocabSize_;
};

/// Turns a stream of tokens into a stream of text. The concatenated output equals
/// Tokenizer::decode() of the whole sequence, and each part of it is whole UTF-8 characters: bytes
/// of an unfinished one are held back, at most three. A push costs the same whatever came before
/// it. For one thread at a time; borrows the tokenizer.
///
/// SentencePiece's optional denormaliser, which no Llama-like checkpoint has, works on a whole
/// text; here it is applied token by token.
class TextDecoder {
public:
  explicit TextDecoder(const Tokenizer &tokenizer) : tokenizer_(&tokenizer) {}

  /// Text that is complete once `token` is known, perhaps empty. It is followed by a NUL and lives
  /// until the next call. Errors: MOEPLAN_INVALID_ARGUMENT for an id that is out of range; the
  /// stream then is as before.
  Result<std::string_view> push(int32_t token);

  /// What is still held back: U+FFFD for each byte. The decoder is then ready for a new stream.
  std::string_view finish();

private:
  void emitCompleteCharacters();
  void emitReplacements();

  const Tokenizer *tokenizer_;
  std::string text_;
  std::string heldBack_; // bytes of an unfinished UTF-8 character
  // A token before the current one and its text. It tells SentencePiece that the current token does
  // not open the text, so that its leading space is kept.
  int32_t context_ = -1;
  size_t contextBytes_ = 0;
};

} // namespace moeplan
