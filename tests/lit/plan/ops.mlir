// Every op and attribute of the dialect, as it is written; what is printed can be read again.
// RUN: moeplan-opt %s | moeplan-opt | FileCheck %s
// RUN: moeplan-opt %s --mlir-print-op-generic | moeplan-opt | FileCheck %s

// CHECK: module attributes {plan.model = #plan.model<vocab_size = 32,
// CHECK-SAME: eos_token_ids = [2], kv_cache_format = "f32">}
module attributes {plan.model = #plan.model<
    vocab_size = 32, hidden_size = 16, intermediate_size = 24, num_layers = 1,
    num_attention_heads = 2, num_key_value_heads = 1, head_dim = 8, num_experts = 2,
    num_experts_per_tok = 1, rms_norm_eps = 1.0e-05 : f64, rope_theta = 1.0e+06 : f64,
    sliding_window = 0, max_position_embeddings = 64, tie_word_embeddings = false,
    bos_token_id = 1, eos_token_ids = [2], kv_cache_format = "f32">} {

// CHECK: plan.segment @"up@bf16" source "up" format "bf16" shape [24, 16]
plan.segment @"up@bf16" source "up" format "bf16" shape [24, 16]
// CHECK: plan.segment @"norm@f32" source "norm" format "f32" shape [16]
plan.segment @"norm@f32" source "norm" format "f32" shape [16]

// A constant is an integer or a float.
// CHECK: plan.kernel @rms_norm_16 implements "rms_norm" {epsilon = 1.000000e-05 : f64, features = 16 : i64}
plan.kernel @rms_norm_16 implements "rms_norm" {epsilon = 1.0e-05 : f64, features = 16 : i64}
// A kernel is the CPU's where nothing else is said.
// CHECK: plan.kernel @cuda_add implements "add" machine cuda {features = 16 : i64, threads = 256 : i64}
plan.kernel @cuda_add implements "add" machine cuda {features = 16 : i64, threads = 256 : i64}

// CHECK-LABEL: plan.plan @default {
plan.plan @default {
  // CHECK: plan.expert_table 0 [#plan.expert<w1 = @"up@bf16", w3 = @"up@bf16", w2 = @"up@bf16", residency = host>,
  // CHECK-SAME: #plan.expert<w1 = @"up@bf16", w3 = @"up@bf16", w2 = @"up@bf16", residency = device>]
  plan.expert_table 0 [
    #plan.expert<w1 = @"up@bf16", w3 = @"up@bf16", w2 = @"up@bf16", residency = host>,
    #plan.expert<w1 = @"up@bf16", w3 = @"up@bf16", w2 = @"up@bf16", residency = device>]

  // Each kind of buffer. The session decides the size of caches and tables; tokens and logits state it.
  // CHECK: plan.program @buffers max_tokens 1 memory host {
  plan.program @buffers max_tokens 1 memory host {
    // CHECK: plan.alloc 64 : <host>
    %scratch = plan.alloc 64 : !plan.buffer<host>
    // CHECK: plan.alloc 64 : <device>
    %device = plan.alloc 64 : !plan.buffer<device>
    // CHECK: plan.weight @"norm@f32" : <host>
    %weight = plan.weight @"norm@f32" : !plan.buffer<host>
    // CHECK: plan.resource keys 3 : <host>
    %keys = plan.resource keys 3 : !plan.buffer<host>
    // CHECK: plan.resource values 3 : <host>
    %values = plan.resource values 3 : !plan.buffer<host>
    // CHECK: plan.resource experts 0 : <host>
    %experts = plan.resource experts 0 : !plan.buffer<host>
    // CHECK: plan.resource tokens 0 bytes 4 : <host>
    %tokens = plan.resource tokens 0 bytes 4 : !plan.buffer<host>
    // CHECK: plan.resource logits 0 bytes 128 : <host>
    %logits = plan.resource logits 0 bytes 128 : !plan.buffer<host>
  }

  // Each kind of command. With an arena, every alloc has its offset in it; what is pinned has its own.
  // CHECK: plan.program @commands max_tokens 64 memory device arena_bytes 128 pinned_bytes 64 weight_bytes_per_token 64 {
  plan.program @commands max_tokens 64 memory device arena_bytes 128 pinned_bytes 64 weight_bytes_per_token 64 {
    // CHECK: %[[X:.*]] = plan.alloc 64 offset 0 : <device>
    %x = plan.alloc 64 offset 0 : !plan.buffer<device>
    // CHECK: %[[Y:.*]] = plan.alloc 64 offset 64 : <device>
    %y = plan.alloc 64 offset 64 : !plan.buffer<device>
    // CHECK: %[[W:.*]] = plan.weight
    %w = plan.weight @"norm@f32" : !plan.buffer<host>
    // CHECK: plan.copy %[[W]] to %[[X]] bytes 64 : <host> to <device>
    plan.copy %w to %x bytes 64 : !plan.buffer<host> to !plan.buffer<device>
    // CHECK: plan.barrier
    plan.barrier
    // CHECK: plan.dispatch @cuda_add tiles 1 per_token (read %[[X]], write %[[Y]]) : !plan.buffer<device>, !plan.buffer<device>
    plan.dispatch @cuda_add tiles 1 per_token (read %x, write %y)
      : !plan.buffer<device>, !plan.buffer<device>
    // CHECK: plan.dispatch @cuda_add tiles 8 (read_write %[[X]]) : !plan.buffer<device>
    plan.dispatch @cuda_add tiles 8 (read_write %x) : !plan.buffer<device>
    // CHECK: %[[Z:.*]] = plan.alloc 64 offset 0 : <pinned>
    %z = plan.alloc 64 offset 0 : !plan.buffer<pinned>
    // CHECK: plan.dispatch @rms_norm_16 tiles 1 per_token (read_write %[[Z]]) : !plan.buffer<pinned>
    plan.dispatch @rms_norm_16 tiles 1 per_token (read_write %z) : !plan.buffer<pinned>
    // CHECK: plan.join
    plan.join
  }
}

// A strategy for experts in host memory; `none` may be said wherever no strategy is needed.
// CHECK-LABEL: plan.plan @cached miss <cached, cache_slots = 2> {
plan.plan @cached miss <cached, cache_slots = 2> {
  plan.expert_table 0 [
    #plan.expert<w1 = @"up@bf16", w3 = @"up@bf16", w2 = @"up@bf16", residency = host>,
    #plan.expert<w1 = @"up@bf16", w3 = @"up@bf16", w2 = @"up@bf16", residency = device>]
}

// CHECK-LABEL: plan.plan @no_misses miss <none> {
plan.plan @no_misses miss <none> {
}
}
