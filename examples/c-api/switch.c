/* Goes on with another plan in the middle of a text, without a pause: the C API of a server that decides
 * by day and night, by load, or by what memory is left.
 *
 *   switch MODEL.moeplan PROMPT PLAN [TOKENS]
 */
#include <moeplan/moeplan.h>

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void check(moeplan_status *status) {
  if (!status)
    return;
  fprintf(stderr, "switch: %s\n", moeplan_status_message(status));
  moeplan_status_free(status);
  exit(1);
}

/* Called by a thread of the runtime. */
static void on_event(void *user_data, const moeplan_event *event) {
  (void)user_data;
  fprintf(stderr, "[%s] %s%s%s\n", moeplan_event_name(event->kind), event->plan ? event->plan : "",
          event->reason ? ": " : "", event->reason ? event->reason : "");
}

int main(int argc, char **argv) {
  if (argc < 4 || argc > 5) {
    fprintf(stderr, "usage: switch MODEL.moeplan PROMPT PLAN [TOKENS]\n");
    return 2;
  }
  const char *prompt = argv[2], *next_plan = argv[3];
  const long count = argc == 5 ? strtol(argv[4], NULL, 10) : 64;

  moeplan_artifact *artifact = NULL;
  check(moeplan_artifact_open(argv[1], &artifact));

  /* Sessions of one runtime share weights, a budget of memory, and a thread that controls them. */
  moeplan_runtime_options runtime_options;
  moeplan_runtime_options_init(&runtime_options);
  runtime_options.on_event = on_event;
  moeplan_runtime *runtime = NULL;
  check(moeplan_runtime_create(artifact, &runtime_options, &runtime));

  moeplan_session_options session_options;
  moeplan_session_options_init(&session_options);
  session_options.runtime = runtime;
  moeplan_session *session = NULL;
  check(moeplan_session_create(artifact, &session_options, &session));

  const moeplan_model_info model = moeplan_artifact_model_info(artifact);
  moeplan_sampler *sampler = NULL;
  check(moeplan_sampler_create(NULL, model.vocab_size, &sampler)); /* greedy */
  moeplan_text_decoder *decoder = NULL;
  check(moeplan_text_decoder_create(artifact, &decoder));

  int32_t *tokens = NULL;
  size_t prompt_tokens = 0;
  check(moeplan_tokenize(artifact, prompt, strlen(prompt), model.bos_token_id >= 0, &tokens,
                         &prompt_tokens));
  if (prompt_tokens == 0)
    return 2;
  check(moeplan_session_append(session, tokens, prompt_tokens, 1));
  moeplan_tokens_free(tokens);

  for (long i = 0; i < count; ++i) {
    /* With `wait` it returns when the plan has changed, so that this program prints the same each time.
     * Without, it returns at once: the weights are staged while the loop goes on, and the plan changes
     * between two calls of moeplan_session_append(). */
    if (i == count / 2) {
      moeplan_switch_options switch_options;
      moeplan_switch_options_init(&switch_options);
      switch_options.wait = true;
      check(moeplan_session_switch_plan(session, next_plan, &switch_options));
    }
    const int32_t token = moeplan_sampler_sample(sampler, moeplan_session_logits(session, 0));
    const char *text = NULL;
    size_t bytes = 0;
    check(moeplan_text_decoder_push(decoder, token, &text, &bytes));
    fwrite(text, 1, bytes, stdout);
    if (moeplan_session_position(session) == moeplan_session_context_length(session))
      break;
    check(moeplan_session_append(session, &token, 1, 1));
  }
  printf("\n");

  moeplan_text_decoder_free(decoder);
  moeplan_sampler_free(sampler);
  moeplan_session_free(session); /* before its runtime or behind it, but before the artifact */
  moeplan_runtime_free(runtime);
  moeplan_artifact_close(artifact);
  return 0;
}
