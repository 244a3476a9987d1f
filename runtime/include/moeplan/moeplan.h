/* The public C API of the moeplan runtime.
 *
 * Errors. A function that can fail returns `moeplan_status *`: NULL means success, anything else
 * carries a code and a one-line message, belongs to the caller and is released with
 * moeplan_status_free(). Out-parameters are written only on success. No function aborts, throws or
 * prints.
 *
 * Ownership. `moeplan_X_create/open` gives an object to the caller, `moeplan_X_free/close` takes it
 * back; NULL is accepted there. Strings and arrays passed in are copied or used only during the
 * call. Pointers given out without a matching free function are borrowed, and each says for how long.
 *
 * Threads. A `moeplan_artifact` is immutable once open and may be used from any number of threads.
 * A `moeplan_session` or `moeplan_sampler` may be used by one thread at a time; functions that may be
 * called by others besides say so. A `moeplan_runtime` may be used from any number of threads.
 * Different objects are independent. There is no global state.
 *
 * Trust. An artifact holds machine code: opening one reads it only, creating a session runs it.
 * Create sessions only from artifacts of a source you trust.
 */
#ifndef MOEPLAN_H
#define MOEPLAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#if defined(__GNUC__)
#define MOEPLAN_EXPORT __attribute__((visibility("default")))
#else
#define MOEPLAN_EXPORT
#endif

#ifdef __cplusplus
extern "C" {
#endif

/* ---- status -------------------------------------------------------------------------------- */

typedef struct moeplan_status moeplan_status;

typedef enum moeplan_code {
  MOEPLAN_OK = 0,
  MOEPLAN_INVALID_ARGUMENT = 1,   /* the caller's fault: a bad option, token id, null pointer */
  MOEPLAN_NOT_FOUND = 2,          /* no such file or plan, or no tokenizer in the artifact */
  MOEPLAN_CORRUPT = 3,            /* the artifact is damaged or breaks a rule of the format */
  MOEPLAN_UNSUPPORTED = 4,        /* a newer format, or no kernels for this CPU */
  MOEPLAN_RESOURCE_EXHAUSTED = 5, /* memory, or the KV cache is full */
  MOEPLAN_IO_ERROR = 6,
  MOEPLAN_CANCELLED = 7,          /* a callback asked to stop, or a later request took its place */
  MOEPLAN_INTERNAL = 8,
  MOEPLAN_QUARANTINED = 9         /* a plan that the canary found wrong, see moeplan_runtime_verify_plan */
} moeplan_code;

/* MOEPLAN_OK for NULL. */
MOEPLAN_EXPORT moeplan_code moeplan_status_code(const moeplan_status *status);
/* One line without a newline; lives as long as `status`. "ok" for NULL. */
MOEPLAN_EXPORT const char *moeplan_status_message(const moeplan_status *status);
MOEPLAN_EXPORT void moeplan_status_free(moeplan_status *status);

/* "MAJOR.MINOR.PATCH", static. */
MOEPLAN_EXPORT const char *moeplan_version(void);

/* ---- artifact ------------------------------------------------------------------------------ */

typedef struct moeplan_artifact moeplan_artifact;

/* Maps the file and checks its header, its metadata and every rule of the format, but not the bytes
 * of the weights (moeplan_artifact_verify does). Takes milliseconds, whatever the file's size. */
MOEPLAN_EXPORT moeplan_status *moeplan_artifact_open(const char *path, moeplan_artifact **out);
/* All sessions of the artifact must be freed before. */
MOEPLAN_EXPORT void moeplan_artifact_close(moeplan_artifact *artifact);

/* Called now and then with the bytes done so far; returns false to cancel. */
typedef bool (*moeplan_progress_fn)(void *user_data, uint64_t done_bytes, uint64_t total_bytes);

/* Where the bytes of weights come from. */
typedef enum moeplan_load_mode {
  MOEPLAN_LOAD_MAP = 0,   /* from the page cache, read when they are touched */
  MOEPLAN_LOAD_READ = 1,  /* from memory of this process, filled through the page cache */
  MOEPLAN_LOAD_DIRECT = 2 /* the same, past the page cache */
} moeplan_load_mode;

typedef struct moeplan_load_options {
  size_t struct_size;        /* set by moeplan_load_options_init */
  moeplan_load_mode experts; /* of the experts' weights */
  moeplan_load_mode others;  /* of all others */
  bool preload;              /* those that stay mapped are read and mapped at once */
  bool huge_pages;           /* asked for, for those that do not stay mapped */
  uint32_t threads;          /* that read; 0: enough for a fast disk */
  const char *plan;          /* whose weights; NULL: those of all plans */
  moeplan_progress_fn progress; /* called on the calling thread; NULL: none */
  void *user_data;              /* of progress */
} moeplan_load_options;
MOEPLAN_EXPORT void moeplan_load_options_init(moeplan_load_options *options);

/* Brings weights into memory ahead of their use, by several threads, in the order in which the plan
 * reads them; those of a synthetic artifact are generated. Without it they are mapped, and read from
 * the disk when a step touches them first. No session or runtime of the artifact may exist. Errors:
 * MOEPLAN_RESOURCE_EXHAUSTED where they do not fit in the machine's memory, MOEPLAN_NOT_FOUND for the
 * plan, MOEPLAN_UNSUPPORTED where the file system has no direct reads, MOEPLAN_IO_ERROR,
 * MOEPLAN_CANCELLED; the artifact is as it was then. */
MOEPLAN_EXPORT moeplan_status *moeplan_artifact_load(moeplan_artifact *artifact,
                                                     const moeplan_load_options *options);

/* Reads the whole file: every checksum, every padding byte, every compressed segment.
 * `progress` may be NULL. */
MOEPLAN_EXPORT moeplan_status *moeplan_artifact_verify(const moeplan_artifact *artifact,
                                                       moeplan_progress_fn progress,
                                                       void *user_data);

/* A JSON description: model, plans, programs, kernels, libraries, segments, provenance.
 * The string is released with moeplan_string_free(). */
MOEPLAN_EXPORT moeplan_status *moeplan_artifact_inspect(const moeplan_artifact *artifact,
                                                        char **json);
MOEPLAN_EXPORT void moeplan_string_free(char *string);

typedef struct moeplan_model_info {
  uint32_t vocab_size;
  uint32_t num_layers;
  uint32_t num_experts;
  uint32_t num_experts_per_tok;
  uint32_t max_context;  /* max_position_embeddings of the checkpoint */
  int32_t bos_token_id;  /* -1: the model has none */
} moeplan_model_info;

MOEPLAN_EXPORT moeplan_model_info moeplan_artifact_model_info(const moeplan_artifact *artifact);
MOEPLAN_EXPORT bool moeplan_artifact_is_eos(const moeplan_artifact *artifact, int32_t token);
/* Without one, what turns text into tokens or tokens into text fails with MOEPLAN_NOT_FOUND. */
MOEPLAN_EXPORT bool moeplan_artifact_has_tokenizer(const moeplan_artifact *artifact);
/* Whether weights are not in the file but generated from a seed, for measuring speed without a
 * checkpoint. The seed goes to `*seed`, which may be NULL. */
MOEPLAN_EXPORT bool moeplan_artifact_is_synthetic(const moeplan_artifact *artifact, uint64_t *seed);
MOEPLAN_EXPORT size_t moeplan_artifact_plan_count(const moeplan_artifact *artifact);
/* Lives as long as the artifact; NULL where index >= plan count. */
MOEPLAN_EXPORT const char *moeplan_artifact_plan_name(const moeplan_artifact *artifact,
                                                      size_t index);

/* ---- text ---------------------------------------------------------------------------------- */

/* Token ids of `text` (UTF-8, `bytes` long, NUL not needed), BOS first where `add_bos`. The array is
 * released with moeplan_tokens_free(). */
MOEPLAN_EXPORT moeplan_status *moeplan_tokenize(const moeplan_artifact *artifact, const char *text,
                                                size_t bytes, bool add_bos, int32_t **tokens,
                                                size_t *count);
MOEPLAN_EXPORT void moeplan_tokens_free(int32_t *tokens);

/* Turns a stream of tokens into a stream of text: bytes come out as soon as they form whole UTF-8
 * characters. One decoder per stream. It borrows the artifact. */
typedef struct moeplan_text_decoder moeplan_text_decoder;
MOEPLAN_EXPORT moeplan_status *moeplan_text_decoder_create(const moeplan_artifact *artifact,
                                                           moeplan_text_decoder **out);
/* `*text` (`*bytes` long, NUL-terminated, perhaps empty) lives until the next call on the decoder. */
MOEPLAN_EXPORT moeplan_status *moeplan_text_decoder_push(moeplan_text_decoder *decoder,
                                                         int32_t token, const char **text,
                                                         size_t *bytes);
/* Bytes still held back at the end of the stream: an unfinished character becomes U+FFFD. */
MOEPLAN_EXPORT moeplan_status *moeplan_text_decoder_finish(moeplan_text_decoder *decoder,
                                                           const char **text, size_t *bytes);
MOEPLAN_EXPORT void moeplan_text_decoder_free(moeplan_text_decoder *decoder);

/* ---- runtime ------------------------------------------------------------------------------- */

/* A device with the weights that are on it, and a thread that controls which plan each of its sessions
 * runs: it stages weights, keeps to a budget of device memory and checks plans with a canary. The thread
 * begins when it is first needed. It borrows the artifact. */
typedef struct moeplan_runtime moeplan_runtime;
typedef struct moeplan_session moeplan_session;

typedef enum moeplan_event_kind {
  MOEPLAN_EVENT_STAGING = 0,     /* a switch begins; bytes: what it has to bring in */
  MOEPLAN_EVENT_EVICTED = 1,     /* experts of the plan in use made room; bytes: freed */
  MOEPLAN_EVENT_FLIPPED = 2,     /* the next token is the new plan's; bytes: brought in so far */
  MOEPLAN_EVENT_RELEASED = 3,    /* what no plan needs any more is gone; bytes: of it */
  MOEPLAN_EVENT_COMPLETED = 4,   /* all weights are where the plan keeps them; bytes: brought in */
  MOEPLAN_EVENT_FAILED = 5,      /* a switch ended with an error; the plan in use stays, or behind FLIPPED:
                                  * some of its experts stay in the host's memory */
  MOEPLAN_EVENT_SUPERSEDED = 6,  /* a switch gave way to a later request */
  MOEPLAN_EVENT_BUDGET = 7,      /* a budget was set or asked for again; plan: what it allows */
  MOEPLAN_EVENT_CANARY = 8,      /* a check passed */
  MOEPLAN_EVENT_QUARANTINED = 9, /* a check failed: the plan will not be chosen */
  MOEPLAN_EVENT_VERIFIED = 10,   /* a plan that was quarantined may be chosen again */
  MOEPLAN_EVENT_ROLLED_BACK = 11 /* a better plan takes the place of one that failed its check */
} moeplan_event_kind;

/* "staging", "flipped", ...: static; "unknown" for others. */
MOEPLAN_EXPORT const char *moeplan_event_name(moeplan_event_kind kind);

/* Strings and the struct itself live during the callback. Fields that a kind does not state are 0 or
 * NULL. */
typedef struct moeplan_event {
  size_t struct_size;
  moeplan_event_kind kind;
  const moeplan_session *session;
  const char *from_plan;       /* in use when the switch began */
  const char *plan;            /* what the event is about */
  uint64_t bytes;
  double seconds;              /* since the switch or the check began */
  uint32_t position;           /* tokens in the KV cache when the plans were exchanged */
  double perplexity_increase;  /* of a check: over the reference, as a fraction */
  double divergence;           /* of a check: Kullback-Leibler, nats per token */
  const char *reason;
} moeplan_event;

/* Called by any thread, by one at a time. Must not call functions of the runtime or its sessions. */
typedef void (*moeplan_event_fn)(void *user_data, const moeplan_event *event);

typedef struct moeplan_runtime_options {
  size_t struct_size;     /* set by moeplan_runtime_options_init */
  /* "cpu"; "cuda" for an NVIDIA GPU, as "cuda:0,device_memory=24GiB"; or "emu" for CPU kernels
   * behind a memory of their own, as "emu:device_memory=24GiB,copy=25GB/s,latency=10us". NULL: cpu. */
  const char *device;
  moeplan_event_fn on_event; /* NULL: none */
  void *user_data;           /* of on_event */
  /* Those of the artifact's policy where they are negative, or else 0.5, 0.05 and 10. */
  double bandwidth_share; /* of the time that staging may use the link or the memory: (0, 1] */
  double hysteresis;      /* share of the budget that a better plan must leave free: [0, 1) */
  double min_seconds;     /* between two switches that a budget causes */
} moeplan_runtime_options;

MOEPLAN_EXPORT void moeplan_runtime_options_init(moeplan_runtime_options *options);

/* Loads the artifact's kernels for this machine. `options` may be NULL. */
MOEPLAN_EXPORT moeplan_status *moeplan_runtime_create(const moeplan_artifact *artifact,
                                                      const moeplan_runtime_options *options,
                                                      moeplan_runtime **out);
/* Sessions may outlive it: it ends with the last of them. */
MOEPLAN_EXPORT void moeplan_runtime_free(moeplan_runtime *runtime);

/* The bytes of device memory (where the device has none of its own, of the host's) that weights, KV
 * caches, arenas and buffers may take together from now on. The best plan that fits, by what the
 * artifact's first plan prefers, becomes that of every session: at once where the one in use no longer
 * fits, and with the hysteresis of the options where it is better. Returns before the switches are done.
 * Errors: MOEPLAN_RESOURCE_EXHAUSTED where no plan fits; the budget is then as before. */
MOEPLAN_EXPORT moeplan_status *moeplan_runtime_set_device_budget(moeplan_runtime *runtime,
                                                                 uint64_t bytes);

/* Limits on what a check may find; negative: none. */
typedef struct moeplan_canary_options {
  size_t struct_size;              /* set by moeplan_canary_options_init */
  double max_perplexity_increase;  /* over the reference, as a fraction */
  double max_divergence;           /* of the plan from the reference, nats per token */
  uint64_t every_tokens;           /* generated in a session between two checks; 0: after switches only */
} moeplan_canary_options;
MOEPLAN_EXPORT void moeplan_canary_options_init(moeplan_canary_options *options);

/* Checks plans on `tokens` (2 .. max_context of them) instead of on the artifact's own canary. Their
 * reference is the artifact's best plan, which runs over them once before this returns. `options` may
 * be NULL. */
MOEPLAN_EXPORT moeplan_status *
moeplan_runtime_set_canary(moeplan_runtime *runtime, const int32_t *tokens, size_t count,
                           const moeplan_canary_options *options);

/* Reads all weights of a plan and compares their checksums; those on the device are copied again where
 * they are damaged. Lets a plan that was quarantined be chosen again. Errors: MOEPLAN_CORRUPT. */
MOEPLAN_EXPORT moeplan_status *moeplan_runtime_verify_plan(moeplan_runtime *runtime,
                                                           const char *plan);

/* Since the runtime was created. */
typedef struct moeplan_memory_counters {
  uint64_t device_budget;  /* UINT64_MAX: none */
  uint64_t device_bytes;   /* in use */
  uint64_t staged_bytes;   /* weights brought into a memory where they were not */
  uint64_t copied_bytes;   /* of these over the link to the device */
  uint64_t released_bytes; /* given up when no plan needed them any more */
  uint64_t evicted_bytes;  /* given up while a plan needed them */
  uint64_t hits;           /* routed experts found in a cache slot */
  uint64_t misses;         /* routed experts that were not on the device */
  uint64_t miss_bytes;     /* that passed the link for them */
  double copy_bandwidth;   /* of the link, bytes per second; 0: no link */
} moeplan_memory_counters;
MOEPLAN_EXPORT moeplan_memory_counters
moeplan_runtime_memory_counters(const moeplan_runtime *runtime);

/* Bytes per second, read and written together, of copies of `bytes` within the memory of the runtime's
 * device: the best of `repetitions`. MOEPLAN_UNSUPPORTED where the device is not a GPU: its memory is
 * the host's, see moeplan_measure_read_bandwidth(). */
MOEPLAN_EXPORT moeplan_status *
moeplan_runtime_measure_device_bandwidth(moeplan_runtime *runtime, uint64_t bytes,
                                         uint32_t repetitions, double *bytes_per_second);

/* Bytes per second of copies of `bytes` from pinned memory of the host to the memory of the runtime's
 * device: the best of `repetitions`. MOEPLAN_UNSUPPORTED where the device is not a GPU,
 * MOEPLAN_RESOURCE_EXHAUSTED where either memory has no room. */
MOEPLAN_EXPORT moeplan_status *
moeplan_runtime_measure_link_bandwidth(moeplan_runtime *runtime, uint64_t bytes,
                                       uint32_t repetitions, double *bytes_per_second);

/* ---- session ------------------------------------------------------------------------------- */

/* A session is a KV cache, a position in it, and a plan. It borrows the artifact. */

typedef struct moeplan_session_options {
  size_t struct_size;      /* sizeof(moeplan_session_options), set by moeplan_session_options_init */
  /* NULL: the artifact's first, or where the device has a budget the best that fits. */
  const char *plan;
  uint32_t context_length; /* positions of the KV cache; 0: min(max_context, 4096) */
  uint32_t threads;        /* 0: one per physical core available to the process */
  /* Binds each thread to a CPU of its own among those the creating thread may run on: one of every
   * physical core first, then their further hyperthreads. The threads of the session stay there.
   * A thread that calls moeplan_session_append() is bound to the first of the CPUs until the call
   * returns, which costs three system calls. Two sessions choose the same CPUs. Creating the session
   * fails with MOEPLAN_UNSUPPORTED where there are fewer CPUs than threads or the system refuses. */
  bool pin_threads;
  moeplan_runtime *runtime; /* of the same artifact; NULL: one of its own, on the CPU */
} moeplan_session_options;

MOEPLAN_EXPORT void moeplan_session_options_init(moeplan_session_options *options);

/* Loads the plan's kernels and allocates the KV cache. Weights stay mapped; synthetic ones are
 * generated for the first session of a plan that reads them, in the time that writing so much memory
 * takes.
 * `options` may be NULL. */
MOEPLAN_EXPORT moeplan_status *moeplan_session_create(const moeplan_artifact *artifact,
                                                      const moeplan_session_options *options,
                                                      moeplan_session **out);
MOEPLAN_EXPORT void moeplan_session_free(moeplan_session *session);

/* Appends `count` >= 1 tokens to the sequence and computes the logits of the last `logits_count`
 * (0 .. count) of them. Fails without a change to the session where an id is out of range or the KV
 * cache has no room. Allocates nothing for count = 1 after the first call. */
MOEPLAN_EXPORT moeplan_status *moeplan_session_append(moeplan_session *session,
                                                      const int32_t *tokens, size_t count,
                                                      size_t logits_count);

/* Row `index` (0: the first whose logits were asked for) of the last append: float32 [vocab_size].
 * Lives until the next append or free. NULL where index >= logits_count. */
MOEPLAN_EXPORT const float *moeplan_session_logits(const moeplan_session *session, size_t index);

/* Tokens in the KV cache. */
MOEPLAN_EXPORT uint32_t moeplan_session_position(const moeplan_session *session);
MOEPLAN_EXPORT uint32_t moeplan_session_context_length(const moeplan_session *session);
MOEPLAN_EXPORT uint32_t moeplan_session_threads(const moeplan_session *session);
/* Bytes of weights that decoding one token reads under the session's plan. */
MOEPLAN_EXPORT uint64_t moeplan_session_weight_bytes_per_token(const moeplan_session *session);
/* Name of the CPU that the kernels in use were compiled for; lives as long as the session. */
MOEPLAN_EXPORT const char *moeplan_session_target_cpu(const moeplan_session *session);
MOEPLAN_EXPORT const char *moeplan_session_plan_name(const moeplan_session *session);
/* Forgets the sequence: position 0. */
MOEPLAN_EXPORT void moeplan_session_reset(moeplan_session *session);

/* What each plan of the artifact would take for a first session with `options`, whose plan is not looked
 * at, before any weight is loaded. `options` may be NULL. `*json` is an object: "budget", bytes of the
 * memory that the device computes from; "host_available", bytes that the host has free; "plans", an
 * object for each: "plan"; "fits"; "cannot_run", why the device has no use for it, or null; "bytes" of
 * the first memory (weights, KV cache, what a session works with); "host_bytes" of the host's besides;
 * "miss_strategy"; "experts_on_device", "experts_on_host"; "bytes_per_token" and "host_bytes_per_token",
 * the weights that a token reads from each where all experts are as likely (what a cache slot holds is
 * read from the first); "predicted_tokens_per_second", of the profile that the plan was made for, or null.
 * The string is released with moeplan_string_free(). Errors: MOEPLAN_INVALID_ARGUMENT where the model has
 * no such context. */
MOEPLAN_EXPORT moeplan_status *moeplan_runtime_fit(moeplan_runtime *runtime,
                                                   const moeplan_session_options *options,
                                                   char **json);

typedef struct moeplan_switch_options {
  size_t struct_size; /* set by moeplan_switch_options_init */
  /* Return when the session has changed its plan, or with the reason why it has not. Not from within a
   * callback, and not while another thread is in moeplan_session_append() that waits for this one. */
  bool wait;
} moeplan_switch_options;
MOEPLAN_EXPORT void moeplan_switch_options_init(moeplan_switch_options *options);

/* Lets the session go on with another plan, from between two tokens on, as soon as the weights that it
 * lacks are there. Until then the session runs as before; the KV cache stays. Of several requests the
 * last one counts. Where anything fails, the plan in use stays. May be called by any thread. `options`
 * may be NULL. Errors: MOEPLAN_NOT_FOUND, MOEPLAN_UNSUPPORTED where the device cannot run the plan,
 * MOEPLAN_RESOURCE_EXHAUSTED where it does not fit the budget by itself, MOEPLAN_QUARANTINED; with
 * `wait` besides what stopped it, and MOEPLAN_CANCELLED where a later request took its place. */
MOEPLAN_EXPORT moeplan_status *moeplan_session_switch_plan(moeplan_session *session,
                                                           const char *plan,
                                                           const moeplan_switch_options *options);

/* ---- sampling ------------------------------------------------------------------------------ */

typedef struct moeplan_sampler moeplan_sampler;

/* Applied in this order: repetition penalty, temperature, top-k, top-p. */
typedef struct moeplan_sampler_options {
  size_t struct_size;       /* sizeof(moeplan_sampler_options), set by the init function */
  float temperature;        /* >= 0; 0 is greedy: the largest logit, lowest id on a tie */
  uint32_t top_k;           /* 0: all */
  float top_p;              /* in (0, 1]; 1: all */
  float repetition_penalty; /* > 0; 1: none (Keskar et al., CTRL, arXiv 1909.05858) */
  uint32_t repetition_window; /* how many of the latest tokens are penalised; 0: none */
  uint64_t seed;
} moeplan_sampler_options;

MOEPLAN_EXPORT void moeplan_sampler_options_init(moeplan_sampler_options *options);
/* `options` may be NULL. */
MOEPLAN_EXPORT moeplan_status *moeplan_sampler_create(const moeplan_sampler_options *options,
                                                      uint32_t vocab_size, moeplan_sampler **out);
/* Tells the sampler of a token of the prompt, for the repetition penalty. */
MOEPLAN_EXPORT void moeplan_sampler_observe(moeplan_sampler *sampler, int32_t token);
/* Draws a token from `logits` (float32 [vocab_size]) and observes it. Same options, seed and logits:
 * same tokens. */
MOEPLAN_EXPORT int32_t moeplan_sampler_sample(moeplan_sampler *sampler, const float *logits);
MOEPLAN_EXPORT void moeplan_sampler_free(moeplan_sampler *sampler);

/* moeplan_session_append(), and the next token as moeplan_sampler_sample() would draw it from the last
 * position's logits: the same token, the same draws. On a GPU only the largest logits come to the host
 * where the sampler needs no others. Keeps no logits: moeplan_session_logits() is NULL. Errors: those of
 * moeplan_session_append(), MOEPLAN_INVALID_ARGUMENT where the sampler is for another vocabulary; the
 * sampler is then as before. */
MOEPLAN_EXPORT moeplan_status *moeplan_session_append_sampled(moeplan_session *session,
                                                              const int32_t *tokens, size_t count,
                                                              moeplan_sampler *sampler,
                                                              int32_t *token);

/* ---- measuring ----------------------------------------------------------------------------- */

/* Bytes per second that `threads` threads together read from memory, sequentially, each its own part
 * of a buffer of `bytes`: the best of `repetitions` passes. */
MOEPLAN_EXPORT moeplan_status *moeplan_measure_read_bandwidth(uint32_t threads, uint64_t bytes,
                                                              uint32_t repetitions,
                                                              double *bytes_per_second);

/* The arithmetic of a matrix product: what its weights are multiplied in. */
typedef enum moeplan_arithmetic {
  MOEPLAN_ARITHMETIC_F32 = 0,  /* float32 weights */
  MOEPLAN_ARITHMETIC_BF16 = 1, /* bf16 weights, float32 sums */
  MOEPLAN_ARITHMETIC_INT8 = 2  /* packed weights: 8-bit codes, 32-bit sums */
} moeplan_arithmetic;

/* Operations per second, a multiplication and an addition being two, that `threads` threads together
 * do in registers with the best instruction this CPU has for `arithmetic`: the best of `repetitions`
 * loops of some milliseconds. Where it has none for bf16 it is the peak of float32. */
MOEPLAN_EXPORT moeplan_status *
moeplan_measure_arithmetic_peak(moeplan_arithmetic arithmetic, uint32_t threads,
                                uint32_t repetitions, double *operations_per_second);

/* What computing has to read and to do at least: weights once per run of a program, those of experts
 * only where a token was routed to them, of the embedding the rows of the distinct tokens; keys and
 * values once; a multiplication and an addition of a matrix product as two operations. Rows without
 * logits are left out where the program leaves them out, behind the keys and values of the last
 * layer. Activations and what is done to them elementwise is not counted. */
typedef struct moeplan_work {
  uint64_t weight_bytes;
  uint64_t host_bytes;  /* of these, of experts that a plan for a GPU keeps in the host's memory */
  uint64_t cache_bytes; /* read from the KV cache */
  uint64_t f32_operations;
  uint64_t bf16_operations;
  uint64_t int8_operations;
} moeplan_work;

/* moeplan_session_append(), and what it took. Slower: not for timed runs. */
MOEPLAN_EXPORT moeplan_status *moeplan_session_append_counted(moeplan_session *session,
                                                              const int32_t *tokens, size_t count,
                                                              size_t logits_count,
                                                              moeplan_work *work);

/* moeplan_session_append(), with every kernel timed while nothing runs beside it. Each of the
 * programs that the tokens go through runs 1 + `repetitions` times, so that a kernel's dispatches
 * have the operands, the routing and the weights of all layers that they have in earnest; the first
 * run is a warm-up. `*json` is an array of an object for each kernel, in the order in which they
 * first run: "kernel", "implementation", "machine" ("cpu" or "cuda"), "dispatches", "seconds" (of all
 * its dispatches for these tokens, the median of the repetitions) and the fields of moeplan_work.
 * Copies are the kernel "copy". The string is released with moeplan_string_free(). */
MOEPLAN_EXPORT moeplan_status *
moeplan_session_measure_kernels(moeplan_session *session, const int32_t *tokens, size_t count,
                                size_t logits_count, uint32_t repetitions, char **json);

#ifdef __cplusplus
}
#endif

#endif
