// What cannot become a plan.
// RUN: moeplan-opt %s --convert-moe-to-plan=prefill-tokens=64 -verify-diagnostics -split-input-file
// RUN: not moeplan-opt %S/Inputs/config-only.mlir --convert-moe-to-plan=prefill-tokens=64,16 2>&1 | FileCheck %s --check-prefix=BUCKETS
// BUCKETS: error: prefill-tokens must ascend and exceed 1
// RUN: not moeplan-opt %S/Inputs/config-only.mlir --convert-moe-to-plan=kv-format=int9 2>&1 | FileCheck %s --check-prefix=KV
// KV: error: unknown kv-format 'int9': f32, bf16 or int8
// RUN: not moeplan-opt %S/Inputs/config-only.mlir --convert-moe-to-plan=kv-format=int4g32 2>&1 | FileCheck %s --check-prefix=SCALES
// SCALES: error: unknown kv-format 'int4g32': f32, bf16 or int8
// RUN: not moeplan-opt %S/Inputs/config-only.mlir --convert-moe-to-plan=also-formats=int4g32,int9 2>&1 | FileCheck %s --check-prefix=ALSO
// ALSO: error: unknown format 'int9' in also-formats
// RUN: not moeplan-opt %S/Inputs/config-only.mlir --convert-moe-to-plan=device-tokens=8 2>&1 | FileCheck %s --check-prefix=DEVICE
// RUN: not moeplan-opt %S/Inputs/config-only.mlir --convert-moe-to-plan=device-tokens=1,1 2>&1 | FileCheck %s --check-prefix=DEVICE
// DEVICE: error: device-tokens must ascend from 1
// RUN: not moeplan-opt %S/convert-moe-to-plan.mlir --convert-moe-to-plan=device-tokens=1 2>&1 | FileCheck %s --check-prefix=HEADS
// HEADS: error: the CUDA kernels need a head_dim that is a multiple of 32 and at most 256, the model has 8: leave out the CUDA targets
// RUN: not moeplan-opt %S/Inputs/router-first.mlir --convert-moe-to-plan=device-tokens=1 2>&1 | FileCheck %s --check-prefix=ROUTER
// ROUTER: error: the CUDA kernels need an attention before each router: leave out the CUDA targets
// RUN: not moeplan-opt %S/convert-moe-to-plan-cuda.mlir --convert-moe-to-plan="device-tokens=1 kv-format=int8" 2>&1 | FileCheck %s --check-prefix=CACHE
// CACHE: error: on CUDA devices the KV cache is bf16, not int8: leave out --kv-format, or the CUDA targets

// expected-error @+1 {{module has no moe.config}}
module {
}

// -----

module attributes {moe.config = #moe.config<
    vocab_size = 32, hidden_size = 16, intermediate_size = 24, num_layers = 1,
    num_attention_heads = 2, num_key_value_heads = 1, head_dim = 8, num_experts = 2,
    num_experts_per_tok = 1, rms_norm_eps = 1.0e-05 : f64, rope_theta = 1.0e+06 : f64,
    sliding_window = 0, max_position_embeddings = 64, tie_word_embeddings = false,
    bos_token_id = 1, eos_token_ids = [2]>} {
  // expected-error @+1 {{has no placement: run apply-placement first}}
  func.func private @forward() {
    return
  }
}

// -----

module attributes {moe.config = #moe.config<
    vocab_size = 32, hidden_size = 16, intermediate_size = 24, num_layers = 1,
    num_attention_heads = 2, num_key_value_heads = 1, head_dim = 8, num_experts = 2,
    num_experts_per_tok = 1, rms_norm_eps = 1.0e-05 : f64, rope_theta = 1.0e+06 : f64,
    sliding_window = 0, max_position_embeddings = 64, tie_word_embeddings = false,
    bos_token_id = 1, eos_token_ids = [2]>} {
  moe.weight @embedding : tensor<32x16xbf16> source "embedding" in "model.safetensors" at 0
  moe.weight @gate : tensor<2x16xbf16> source "gate" in "model.safetensors" at 1024
  moe.weight @up : tensor<24x16xbf16> source "up" in "model.safetensors" at 2048
  moe.weight @down : tensor<16x24xbf16> source "down" in "model.safetensors" at 4096
  func.func private @unplaced(%tokens: tensor<?xi32>) attributes {moe.tier = "unplaced"} {
    %x = moe.embedding %tokens, @embedding : tensor<?xi32> -> tensor<?x16xf32>
    %ids, %weights = moe.router %x, @gate : tensor<?x16xf32> -> tensor<?x1xi32>, tensor<?x1xf32>
    // expected-error @+1 {{'moe.experts' op has no placement}}
    %y = moe.experts %x, %ids, %weights layer 0 [#moe.expert<w1 = @up, w3 = @up, w2 = @down>]
           : tensor<?x16xf32>, tensor<?x1xi32>, tensor<?x1xf32>
    return
  }
}

// -----

module attributes {moe.config = #moe.config<
    vocab_size = 32, hidden_size = 16, intermediate_size = 24, num_layers = 1,
    num_attention_heads = 2, num_key_value_heads = 1, head_dim = 8, num_experts = 2,
    num_experts_per_tok = 1, rms_norm_eps = 1.0e-05 : f64, rope_theta = 1.0e+06 : f64,
    sliding_window = 0, max_position_embeddings = 64, tie_word_embeddings = false,
    bos_token_id = 1, eos_token_ids = [2]>} {
  // expected-error @+1 {{must have a body of one block}}
  func.func private @declaration(tensor<?xi32>) attributes {moe.tier = "declaration"}
}

// -----

module attributes {moe.config = #moe.config<
    vocab_size = 32, hidden_size = 16, intermediate_size = 24, num_layers = 1,
    num_attention_heads = 2, num_key_value_heads = 1, head_dim = 8, num_experts = 2,
    num_experts_per_tok = 1, rms_norm_eps = 1.0e-05 : f64, rope_theta = 1.0e+06 : f64,
    sliding_window = 0, max_position_embeddings = 64, tie_word_embeddings = false,
    bos_token_id = 1, eos_token_ids = [2]>} {
  func.func private @foreign_op(%tokens: tensor<?xi32>) attributes {moe.tier = "foreign_op"} {
    // expected-error @+1 {{'func.call' op has no counterpart in a plan}}
    func.call @foreign_op(%tokens) : (tensor<?xi32>) -> ()
    return
  }
}

// -----

// A program is given tokens, and nothing else.
module attributes {moe.config = #moe.config<
    vocab_size = 32, hidden_size = 16, intermediate_size = 24, num_layers = 1,
    num_attention_heads = 2, num_key_value_heads = 1, head_dim = 8, num_experts = 2,
    num_experts_per_tok = 1, rms_norm_eps = 1.0e-05 : f64, rope_theta = 1.0e+06 : f64,
    sliding_window = 0, max_position_embeddings = 64, tie_word_embeddings = false,
    bos_token_id = 1, eos_token_ids = [2]>} {
  func.func private @activation_argument(%x: tensor<?x16xf32>) attributes {moe.tier = "activation_argument"} {
    // expected-error @+1 {{operand 0 must be an activation that the function computes}}
    %y = moe.add %x, %x : tensor<?x16xf32>
    return
  }
}

// -----

// Logits leave the program: only some of their rows are computed.
module attributes {moe.config = #moe.config<
    vocab_size = 32, hidden_size = 16, intermediate_size = 24, num_layers = 1,
    num_attention_heads = 2, num_key_value_heads = 1, head_dim = 8, num_experts = 2,
    num_experts_per_tok = 1, rms_norm_eps = 1.0e-05 : f64, rope_theta = 1.0e+06 : f64,
    sliding_window = 0, max_position_embeddings = 64, tie_word_embeddings = false,
    bos_token_id = 1, eos_token_ids = [2]>} {
  moe.weight @embedding : tensor<16x16xbf16> source "embedding" in "model.safetensors" at 0
  func.func private @logits_used_again(%tokens: tensor<?xi32>) attributes {moe.tier = "logits_used_again"} {
    %x = moe.embedding %tokens, @embedding : tensor<?xi32> -> tensor<?x16xf32>
    %l = moe.logits %x, @embedding : tensor<?x16xf32> -> tensor<?x16xf32>
    // expected-error @+1 {{operand 1 must be an activation that the function computes}}
    %y = moe.add %x, %l : tensor<?x16xf32>
    return
  }
}
