// Every weight must be read by a kernel that was made for its format.
// RUN: moeplan-opt %s --check-kernel-formats -verify-diagnostics -split-input-file

// Formats differ from expert to expert and from linear to linear: {int4g32 (id 6), bf16 (id 2)} = 68
// upwards, {int2g64 (id 13), int8g64 (id 4)} = 8208 downwards.
plan.segment @"a@int4g32" source "a" format "int4g32" shape [32, 32]
plan.segment @"b@bf16" source "b" format "bf16" shape [32, 32]
plan.segment @"c@int2g64" source "c" format "int2g64" shape [32, 32]
plan.segment @"d@int8g64" source "d" format "int8g64" shape [32, 32]
plan.kernel @up implements "experts_gate_up" {formats = 68 : i64}
plan.kernel @down implements "experts_down" {formats = 8208 : i64}
plan.kernel @linear implements "linear" {weight_format = 4 : i64}
plan.plan @covered {
  plan.expert_table 0 [#plan.expert<w1 = @"a@int4g32", w3 = @"b@bf16", w2 = @"c@int2g64", residency = host>,
                       #plan.expert<w1 = @"b@bf16", w3 = @"a@int4g32", w2 = @"d@int8g64", residency = host>]
  plan.program @decode max_tokens 1 memory host {
    %t = plan.resource experts 0 : <host>
    %w = plan.weight @"d@int8g64" : <host>
    plan.dispatch @up tiles 1 (read %t) : !plan.buffer<host>
    plan.dispatch @down tiles 1 (read %t) : !plan.buffer<host>
    plan.dispatch @linear tiles 1 (read %w) : !plan.buffer<host>
  }
}

// -----

// A kernel that normalises what it reads takes a vector beside its matrix: that is float32, whatever the
// matrix is.
plan.segment @"norm@f32" source "norm" format "f32" shape [32]
plan.segment @"w@int4g32" source "w" format "int4g32" shape [32, 32]
plan.kernel @linear implements "vector_linear" {weight_format = 6 : i64}
plan.plan @vector_beside_a_matrix {
  plan.program @decode max_tokens 1 memory host {
    %n = plan.weight @"norm@f32" : <host>
    %w = plan.weight @"w@int4g32" : <host>
    plan.dispatch @linear tiles 1 (read %n, read %w) : !plan.buffer<host>, !plan.buffer<host>
  }
}

// -----

plan.segment @"norm@bf16" source "norm" format "bf16" shape [32]
plan.kernel @linear implements "vector_linear" {weight_format = 2 : i64}
plan.plan @vector_of_another_format {
  plan.program @decode max_tokens 1 memory host {
    %n = plan.weight @"norm@bf16" : <host>
    // expected-error @+1 {{kernel 'linear' reads f32, not norm@bf16}}
    plan.dispatch @linear tiles 1 (read %n) : !plan.buffer<host>
  }
}

// -----

plan.segment @"layers.0.experts.0.w1@int4g32" source "a" format "int4g32" shape [32, 32]
plan.segment @"layers.0.experts.1.w3@int3g32" source "b" format "int3g32" shape [32, 32]
plan.kernel @up implements "experts_gate_up" {formats = 64 : i64}
plan.plan @up_not_covered {
  plan.expert_table 0 [#plan.expert<w1 = @"layers.0.experts.0.w1@int4g32", w3 = @"layers.0.experts.0.w1@int4g32", w2 = @"layers.0.experts.1.w3@int3g32", residency = host>,
                       #plan.expert<w1 = @"layers.0.experts.0.w1@int4g32", w3 = @"layers.0.experts.1.w3@int3g32", w2 = @"layers.0.experts.1.w3@int3g32", residency = host>]
  plan.program @decode max_tokens 1 memory host {
    %t = plan.resource experts 0 : <host>
    // expected-error @+1 {{no kernel for layers.0.experts.1.w3@int3g32: 'up' was not made for its format}}
    plan.dispatch @up tiles 1 (read %t) : !plan.buffer<host>
  }
}

// -----

plan.segment @"a@f32" source "a" format "f32" shape [32, 32]
plan.kernel @down implements "experts_down" {formats = 4 : i64}
plan.plan @down_not_covered {
  plan.expert_table 0 [#plan.expert<w1 = @"a@f32", w3 = @"a@f32", w2 = @"a@f32", residency = host>]
  plan.program @decode max_tokens 1 memory host {
    %t = plan.resource experts 0 : <host>
    // expected-error @+1 {{no kernel for a@f32: 'down' was not made for its format}}
    plan.dispatch @down tiles 1 (read %t) : !plan.buffer<host>
  }
}

// -----

plan.segment @"a@f32" source "a" format "f32" shape [32, 32]
plan.kernel @down implements "experts_down" {}
plan.plan @formats_not_stated {
  plan.expert_table 0 [#plan.expert<w1 = @"a@f32", w3 = @"a@f32", w2 = @"a@f32", residency = host>]
  plan.program @decode max_tokens 1 memory host {
    %t = plan.resource experts 0 : <host>
    // expected-error @+1 {{kernel 'down' states no formats of the experts it reads}}
    plan.dispatch @down tiles 1 (read %t) : !plan.buffer<host>
  }
}

// -----

plan.segment @"a@f32" source "a" format "f32" shape [32, 32]
plan.kernel @other implements "linear" {formats = 2 : i64}
plan.plan @no_reader_of_experts {
  plan.expert_table 0 [#plan.expert<w1 = @"a@f32", w3 = @"a@f32", w2 = @"a@f32", residency = host>]
  plan.program @decode max_tokens 1 memory host {
    %t = plan.resource experts 0 : <host>
    // expected-error @+1 {{'linear' is none of the kernels that read experts}}
    plan.dispatch @other tiles 1 (read %t) : !plan.buffer<host>
  }
}

// -----

plan.kernel @down implements "experts_down" {formats = 2 : i64}
plan.plan @no_table {
  plan.program @decode max_tokens 1 memory host {
    %t = plan.resource experts 3 : <host>
    // expected-error @+1 {{kernel 'down' reads experts of a layer that has none}}
    plan.dispatch @down tiles 1 (read %t) : !plan.buffer<host>
  }
}

// -----

plan.segment @"w@int4g64" source "w" format "int4g64" shape [32, 32]
plan.kernel @linear implements "linear" {weight_format = 6 : i64}
plan.plan @another_group_size {
  plan.program @decode max_tokens 1 memory host {
    %w = plan.weight @"w@int4g64" : <host>
    // expected-error @+1 {{kernel 'linear' reads int4g32, not w@int4g64}}
    plan.dispatch @linear tiles 1 (read %w) : !plan.buffer<host>
  }
}

// -----

plan.segment @"w@bf16" source "w" format "bf16" shape [32]
plan.kernel @norm implements "rms_norm" {}
plan.plan @vector_in_bf16 {
  plan.program @decode max_tokens 1 memory host {
    %w = plan.weight @"w@bf16" : <host>
    // expected-error @+1 {{kernel 'norm' reads f32, not w@bf16}}
    plan.dispatch @norm tiles 1 (read %w) : !plan.buffer<host>
  }
}
