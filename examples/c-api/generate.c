/* Continues a prompt with the C API: open an artifact, create a session, tokenise the prompt, and
 * then sample and append one token after the other.
 *
 *   generate MODEL.moeplan PROMPT [MAX_TOKENS]
 */
#include <moeplan/moeplan.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* Every function that can fail returns a status: NULL is success, all else is ours to free. */
static void check(moeplan_status *status) {
  if (!status)
    return;
  fprintf(stderr, "generate: %s\n", moeplan_status_message(status));
  moeplan_status_free(status);
  exit(1); /* a library would hand the status on and free what it holds */
}

int main(int argc, char **argv) {
  if (argc < 3 || argc > 4) {
    fprintf(stderr, "usage: generate MODEL.moeplan PROMPT [MAX_TOKENS]\n");
    return 2;
  }
  const char *prompt = argv[2];
  const long max_tokens = argc == 4 ? strtol(argv[3], NULL, 10) : 64;

  /* The artifact is mapped and checked. It can be shared by any number of sessions. */
  moeplan_artifact *artifact = NULL;
  check(moeplan_artifact_open(argv[1], &artifact));
  const moeplan_model_info model = moeplan_artifact_model_info(artifact);

  /* A session is a KV cache and a position in it. From here on the artifact's code runs. */
  moeplan_session_options session_options;
  moeplan_session_options_init(&session_options);
  moeplan_session *session = NULL;
  check(moeplan_session_create(artifact, &session_options, &session));

  moeplan_sampler_options sampler_options;
  moeplan_sampler_options_init(&sampler_options);
  sampler_options.temperature = 0.8f;
  sampler_options.seed = 7;
  moeplan_sampler *sampler = NULL;
  check(moeplan_sampler_create(&sampler_options, model.vocab_size, &sampler));

  /* Collects tokens into text: bytes come out as soon as they form whole characters. */
  moeplan_text_decoder *decoder = NULL;
  check(moeplan_text_decoder_create(artifact, &decoder));

  /* Prefill: the whole prompt at once; the token that follows it is drawn. */
  int32_t *tokens = NULL;
  size_t count = 0;
  int32_t token = 0;
  check(
      moeplan_tokenize(artifact, prompt, strlen(prompt), model.bos_token_id >= 0, &tokens, &count));
  for (size_t i = 0; i < count; ++i)
    moeplan_sampler_observe(sampler, tokens[i]);
  if (count > 0)
    check(moeplan_session_append_sampled(session, tokens, count, sampler, &token));
  moeplan_tokens_free(tokens);

  /* Decode: print, append, draw the next one. */
  const char *text = "";
  size_t bytes = 0;
  for (long i = 0; count > 0 && i < max_tokens && !moeplan_artifact_is_eos(artifact, token); ++i) {
    check(moeplan_text_decoder_push(decoder, token, &text, &bytes));
    fwrite(text, 1, bytes, stdout);
    fflush(stdout);
    if (moeplan_session_position(session) == moeplan_session_context_length(session))
      break; /* the KV cache is full */
    check(moeplan_session_append_sampled(session, &token, 1, sampler, &token));
  }
  check(moeplan_text_decoder_finish(decoder, &text, &bytes));
  fwrite(text, 1, bytes, stdout);
  putchar('\n');

  /* What borrows the artifact goes before it. */
  moeplan_text_decoder_free(decoder);
  moeplan_sampler_free(sampler);
  moeplan_session_free(session);
  moeplan_artifact_close(artifact);
  return 0;
}
