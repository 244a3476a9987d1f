// What the verifiers of the dialect refuse, and what they say.
// RUN: moeplan-opt %s -verify-diagnostics -split-input-file

//===--- segments and kernels ---------------------------------------------------------------===//

// expected-error @+1 {{unknown format 'int9'}}
plan.segment @s source "s" format "int9" shape [16]

// -----

// expected-error @+1 {{a vector cannot be of format 'int8g32'}}
plan.segment @s source "s" format "int8g32" shape [64]

// -----

// expected-error @+1 {{needs one or two positive extents}}
plan.segment @s source "s" format "f32" shape []

// -----

// expected-error @+1 {{needs one or two positive extents}}
plan.segment @s source "s" format "f32" shape [4, 0]

// -----

// expected-error @+1 {{has more bytes than 64 bits count}}
plan.segment @s source "s" format "f32" shape [4294967296, 4294967296]

// -----

// expected-error @+1 {{constant 'mode' must be an integer or a float}}
plan.kernel @k implements "linear" {mode = "fast"}

// -----

//===--- plans ------------------------------------------------------------------------------===//

// expected-error @+1 {{cache_slots must be positive for 'cached' and 0 for any other strategy}}
module attributes {test.value = #plan.miss<cached>} {}

// -----

// expected-error @+1 {{cache_slots must be positive for 'cached' and 0 for any other strategy}}
module attributes {test.value = #plan.miss<host_compute, cache_slots = 1>} {}

// -----

plan.segment @s source "s" format "bf16" shape [4, 4]
// expected-error @+1 {{'plan.plan' op has a strategy for misses, 'stream', but no expert in host memory}}
plan.plan @p miss <stream> {
  plan.expert_table 0 [#plan.expert<w1 = @s, w3 = @s, w2 = @s, residency = device>]
}

// -----

plan.segment @s source "s" format "bf16" shape [4, 4]
plan.plan @p miss <cached, cache_slots = 2> {
  // expected-error @+1 {{has 1 experts, fewer than the 2 cache slots of the plan}}
  plan.expert_table 0 [#plan.expert<w1 = @s, w3 = @s, w2 = @s, residency = host>]
}

// -----

plan.plan @p {
  plan.program @prefill max_tokens 64 memory host {
  }
  // expected-error @+1 {{programs must come in ascending max_tokens}}
  plan.program @decode max_tokens 1 memory host {
  }
}

// -----

plan.plan @p {
  // expected-error @+1 {{only expert tables and programs may stand in a plan}}
  plan.segment @s source "s" format "f32" shape [16]
}

// -----

plan.plan @p {
  // expected-error @+1 {{@missing is not a plan.segment}}
  plan.expert_table 0 [#plan.expert<w1 = @missing, w3 = @missing, w2 = @missing, residency = host>]
}

// -----

// expected-error @+1 {{'plan.expert_table' op expects parent op 'plan.plan'}}
plan.expert_table 0 []

// -----

// expected-error @+1 {{'plan.program' op expects parent op 'plan.plan'}}
plan.program @decode max_tokens 1 memory host {
}

// -----

plan.plan @p {
  // expected-error @+1 {{attribute 'max_tokens' failed to satisfy constraint: 64-bit signless integer attribute whose value is positive}}
  plan.program @decode max_tokens 0 memory host {
  }
}

// -----

//===--- programs and the arena -------------------------------------------------------------===//

plan.plan @p {
  plan.program @decode max_tokens 1 memory host {
    // expected-error @+1 {{only buffers and commands may stand in a program}}
    builtin.module {}
  }
}

// -----

plan.plan @p {
  plan.program @decode max_tokens 1 memory host arena_bytes 64 {
    // expected-error @+1 {{has no offset in a program with an arena}}
    %x = plan.alloc 64 : !plan.buffer<host>
  }
}

// -----

plan.plan @p {
  plan.program @decode max_tokens 1 memory host arena_bytes 128 {
    // expected-error @+1 {{offset 32 is not a multiple of 64}}
    %x = plan.alloc 64 offset 32 : !plan.buffer<host>
  }
}

// -----

plan.plan @p {
  plan.program @decode max_tokens 1 memory host arena_bytes 128 {
    // expected-error @+1 {{ends at byte 192 of an arena of 128 bytes}}
    %x = plan.alloc 128 offset 64 : !plan.buffer<host>
  }
}

// -----

// expected-error @+1 {{'plan.alloc' op expects parent op 'plan.program'}}
%x = plan.alloc 64 : !plan.buffer<host>

// -----

plan.plan @p {
  plan.program @decode max_tokens 1 memory host {
    // expected-error @+1 {{attribute 'bytes' failed to satisfy constraint}}
    %x = plan.alloc 0 : !plan.buffer<host>
  }
}

// -----

plan.plan @p {
  plan.program @decode max_tokens 1 memory host {
    // expected-error @+1 {{@missing is not a plan.segment}}
    %w = plan.weight @missing : !plan.buffer<host>
  }
}

// -----

//===--- dispatches -------------------------------------------------------------------------===//

plan.plan @p {
  plan.program @decode max_tokens 1 memory host {
    %x = plan.alloc 64 : !plan.buffer<host>
    // expected-error @+1 {{@missing is not a plan.kernel}}
    plan.dispatch @missing tiles 1 (write %x) : !plan.buffer<host>
  }
}

// -----

plan.kernel @k implements "linear" {}
plan.plan @p {
  plan.program @decode max_tokens 1 memory host {
    %x = plan.alloc 64 : !plan.buffer<host>
    // expected-error @+1 {{expected 'read', 'write' or 'read_write'}}
    plan.dispatch @k tiles 1 (modify %x) : !plan.buffer<host>
  }
}

// -----

// The printed form cannot say it, the generic form can.
plan.kernel @k implements "linear" {}
plan.plan @p {
  plan.program @decode max_tokens 1 memory host {
    %x = plan.alloc 64 : !plan.buffer<host>
    // expected-error @+1 {{has 1 operands but 0 accesses}}
    "plan.dispatch"(%x) <{accesses = [], kernel = @k, tiles = 1 : i64}> : (!plan.buffer<host>) -> ()
  }
}

// -----

// Weights are shared by all plans.
plan.segment @s source "s" format "f32" shape [16]
plan.kernel @k implements "linear" {}
plan.plan @p {
  plan.program @decode max_tokens 1 memory host {
    %x = plan.alloc 64 : !plan.buffer<host>
    %w = plan.weight @s : !plan.buffer<host>
    // expected-error @+1 {{operand 1 is written but read-only}}
    plan.dispatch @k tiles 1 (read %x, write %w) : !plan.buffer<host>, !plan.buffer<host>
  }
}

// -----

// The input is the session's to write, and so are the expert tables.
plan.kernel @k implements "linear" {}
plan.plan @p {
  plan.program @decode max_tokens 1 memory host {
    %t = plan.resource tokens 0 bytes 4 : !plan.buffer<host>
    // expected-error @+1 {{operand 0 is written but read-only}}
    plan.dispatch @k tiles 1 (write %t) : !plan.buffer<host>
  }
}

// -----

plan.kernel @k implements "linear" {}
plan.plan @p {
  plan.program @decode max_tokens 1 memory host {
    %e = plan.resource experts 0 : !plan.buffer<host>
    // expected-error @+1 {{operand 0 is written but read-only}}
    plan.dispatch @k tiles 1 (read_write %e) : !plan.buffer<host>
  }
}

// -----

//===--- copies -----------------------------------------------------------------------------===//

plan.plan @p {
  plan.program @decode max_tokens 1 memory host {
    %x = plan.alloc 64 : !plan.buffer<host>
    %t = plan.resource tokens 0 bytes 4 : !plan.buffer<host>
    // expected-error @+1 {{target is read-only}}
    plan.copy %x to %t bytes 4 : !plan.buffer<host> to !plan.buffer<host>
  }
}

// -----

plan.plan @p {
  plan.program @decode max_tokens 1 memory host {
    %x = plan.alloc 64 : !plan.buffer<host>
    %y = plan.alloc 32 : !plan.buffer<host>
    // expected-error @+1 {{of 64 bytes, but a buffer has only 32}}
    plan.copy %x to %y bytes 64 : !plan.buffer<host> to !plan.buffer<host>
  }
}

// -----

// A segment has the bytes of its shape in its format: 8 times 4.
plan.segment @s source "s" format "f32" shape [8]
plan.plan @p {
  plan.program @decode max_tokens 1 memory host {
    %x = plan.alloc 64 : !plan.buffer<host>
    %w = plan.weight @s : !plan.buffer<host>
    // expected-error @+1 {{of 64 bytes, but a buffer has only 32}}
    plan.copy %w to %x bytes 64 : !plan.buffer<host> to !plan.buffer<host>
  }
}

// -----

// The padding of tiles counts: 17 rows of 5 columns of bf16 are two tiles of 16 rows and 4 pairs.
plan.segment @s source "s" format "bf16" shape [17, 5]
plan.plan @p {
  plan.program @decode max_tokens 1 memory host {
    %x = plan.alloc 1024 : !plan.buffer<host>
    %w = plan.weight @s : !plan.buffer<host>
    // expected-error @+1 {{of 1024 bytes, but a buffer has only 512}}
    plan.copy %w to %x bytes 1024 : !plan.buffer<host> to !plan.buffer<host>
  }
}

// -----

plan.plan @p {
  plan.program @device_decode max_tokens 1 memory device {
  }
  // expected-error @+1 {{programs in device memory must come last}}
  plan.program @decode max_tokens 1 memory host {
  }
}

// -----

plan.kernel @k implements "add" machine cuda {}
plan.plan @p {
  plan.program @decode max_tokens 1 memory host {
    %x = plan.alloc 64 : !plan.buffer<host>
    // expected-error @+1 {{@k is a device's, the program is not in its memory}}
    plan.dispatch @k tiles 1 (write %x) : !plan.buffer<host>
  }
}

// -----

//===--- work for the host ------------------------------------------------------------------===//

plan.kernel @k implements "add" {}
plan.plan @p {
  plan.program @device_decode max_tokens 1 memory device {
    %x = plan.alloc 64 : !plan.buffer<pinned>
    %y = plan.alloc 64 : !plan.buffer<device>
    // expected-error @+1 {{operand 1 is in device memory, which the host does not reach}}
    plan.dispatch @k tiles 1 (read %x, write %y) : !plan.buffer<pinned>, !plan.buffer<device>
  }
}

// -----

plan.plan @p {
  plan.program @decode max_tokens 1 memory host {
    // expected-error @+1 {{is pinned, but there is no device to reach it}}
    %x = plan.alloc 64 : !plan.buffer<pinned>
  }
}

// -----

plan.plan @p {
  plan.program @decode max_tokens 1 memory host {
    // expected-error @+1 {{there is no work for the host beside a program of its own}}
    plan.join
  }
}

// -----

plan.plan @p {
  // expected-error @+1 {{runs in host or in device memory}}
  plan.program @decode max_tokens 1 memory pinned {
  }
}

// -----

plan.segment @s source "s" format "bf16" shape [4, 4]
plan.plan @p {
  // expected-error @+1 {{an expert is kept by the host or by a device}}
  plan.expert_table 0 [#plan.expert<w1 = @s, w3 = @s, w2 = @s, residency = pinned>]
}

// -----

plan.plan @p {
  plan.program @device_decode max_tokens 1 memory device arena_bytes 64 pinned_bytes 128 {
    %x = plan.alloc 64 offset 64 : !plan.buffer<pinned>
    // expected-error @+1 {{ends at byte 192 of an arena of 128 bytes}}
    %y = plan.alloc 128 offset 64 : !plan.buffer<pinned>
  }
}
