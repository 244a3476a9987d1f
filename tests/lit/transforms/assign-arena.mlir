// Offsets in the arena: buffers that live at the same time do not overlap, others may.
// RUN: moeplan-opt %s --assign-arena | FileCheck %s

plan.kernel @k implements "linear" {}
plan.kernel @g implements "linear" machine cuda {}

// Live together: one behind the other, each at a multiple of 64. The largest comes first.
// CHECK-LABEL: plan.plan @live_together
plan.plan @live_together {
  // CHECK: plan.program @decode max_tokens 1 memory host arena_bytes 448 {
  plan.program @decode max_tokens 1 memory host {
    // CHECK-NEXT: plan.alloc 100 offset 256 : <host>
    // CHECK-NEXT: plan.alloc 256 offset 0 : <host>
    // CHECK-NEXT: plan.alloc 64 offset 384 : <host>
    %a = plan.alloc 100 : !plan.buffer<host>
    %b = plan.alloc 256 : !plan.buffer<host>
    %c = plan.alloc 64 : !plan.buffer<host>
    plan.dispatch @k tiles 1 (read %a, read %b, write %c)
      : !plan.buffer<host>, !plan.buffer<host>, !plan.buffer<host>
  }
}

// A chain: %a is dead when %c is written, so that they share their bytes.
// CHECK-LABEL: plan.plan @reuse_behind_a_barrier
plan.plan @reuse_behind_a_barrier {
  // CHECK: plan.program @decode max_tokens 1 memory host arena_bytes 128 {
  plan.program @decode max_tokens 1 memory host {
    // CHECK-NEXT: plan.alloc 64 offset 0 : <host>
    // CHECK-NEXT: plan.alloc 64 offset 64 : <host>
    // CHECK-NEXT: plan.alloc 64 offset 0 : <host>
    %a = plan.alloc 64 : !plan.buffer<host>
    %b = plan.alloc 64 : !plan.buffer<host>
    %c = plan.alloc 64 : !plan.buffer<host>
    plan.dispatch @k tiles 1 (write %a) : !plan.buffer<host>
    plan.barrier
    plan.dispatch @k tiles 1 (read %a, write %b) : !plan.buffer<host>, !plan.buffer<host>
    plan.barrier
    plan.dispatch @k tiles 1 (read %b, write %c) : !plan.buffer<host>, !plan.buffer<host>
  }
}

// Without a barrier between them, two dispatches may run at the same time.
// CHECK-LABEL: plan.plan @no_reuse_without_a_barrier
plan.plan @no_reuse_without_a_barrier {
  // CHECK: plan.program @decode max_tokens 1 memory host arena_bytes 128 {
  plan.program @decode max_tokens 1 memory host {
    // CHECK-NEXT: plan.alloc 64 offset 0 : <host>
    // CHECK-NEXT: plan.alloc 64 offset 64 : <host>
    %a = plan.alloc 64 : !plan.buffer<host>
    %b = plan.alloc 64 : !plan.buffer<host>
    plan.dispatch @k tiles 1 (write %a) : !plan.buffer<host>
    plan.dispatch @k tiles 1 (write %b) : !plan.buffer<host>
  }
}

// A buffer lives from its first use to its last, whatever lies between.
// CHECK-LABEL: plan.plan @alive_in_between
plan.plan @alive_in_between {
  // CHECK: plan.program @decode max_tokens 1 memory host arena_bytes 128 {
  plan.program @decode max_tokens 1 memory host {
    // CHECK-NEXT: plan.alloc 64 offset 0 : <host>
    // CHECK-NEXT: plan.alloc 64 offset 64 : <host>
    %a = plan.alloc 64 : !plan.buffer<host>
    %b = plan.alloc 64 : !plan.buffer<host>
    plan.dispatch @k tiles 1 (write %a) : !plan.buffer<host>
    plan.barrier
    plan.dispatch @k tiles 1 (write %b) : !plan.buffer<host>
    plan.barrier
    plan.copy %a to %a bytes 64 : !plan.buffer<host> to !plan.buffer<host>
  }
}

// %d fits into the gap that %b leaves between %a and %c.
// CHECK-LABEL: plan.plan @gap_is_filled
plan.plan @gap_is_filled {
  // CHECK: plan.program @decode max_tokens 1 memory host arena_bytes 704 {
  plan.program @decode max_tokens 1 memory host {
    // CHECK-NEXT: plan.alloc 256 offset 0 : <host>
    // CHECK-NEXT: plan.alloc 192 offset 256 : <host>
    // CHECK-NEXT: plan.alloc 192 offset 448 : <host>
    // CHECK-NEXT: plan.alloc 64 offset 256 : <host>
    // CHECK-NEXT: plan.alloc 32 offset 640 : <host>
    %a = plan.alloc 256 : !plan.buffer<host>
    %b = plan.alloc 192 : !plan.buffer<host>
    %c = plan.alloc 192 : !plan.buffer<host>
    %d = plan.alloc 64 : !plan.buffer<host>
    %e = plan.alloc 32 : !plan.buffer<host>
    plan.dispatch @k tiles 1 (write %a, write %b, write %c, write %e)
      : !plan.buffer<host>, !plan.buffer<host>, !plan.buffer<host>, !plan.buffer<host>
    plan.barrier
    plan.dispatch @k tiles 1 (read %a, read %c, write %d)
      : !plan.buffer<host>, !plan.buffer<host>, !plan.buffer<host>
  }
}

// CHECK-LABEL: plan.plan @unused_buffer
plan.plan @unused_buffer {
  // CHECK: plan.program @decode max_tokens 1 memory host arena_bytes 0 {
  // CHECK-NEXT: }
  plan.program @decode max_tokens 1 memory host {
    %a = plan.alloc 64 : !plan.buffer<host>
  }
}

// Each program has an arena of its own.
// CHECK-LABEL: plan.plan @an_arena_per_program
plan.plan @an_arena_per_program {
  // CHECK: plan.program @decode max_tokens 1 memory host arena_bytes 64 {
  // CHECK-NEXT: plan.alloc 64 offset 0 : <host>
  plan.program @decode max_tokens 1 memory host {
    %a = plan.alloc 64 : !plan.buffer<host>
    plan.dispatch @k tiles 1 (write %a) : !plan.buffer<host>
  }
  // CHECK: plan.program @prefill_16 max_tokens 16 memory host arena_bytes 1024 {
  // CHECK-NEXT: plan.alloc 1024 offset 0 : <host>
  plan.program @prefill_16 max_tokens 16 memory host {
    %a = plan.alloc 1024 : !plan.buffer<host>
    plan.dispatch @k tiles 1 (write %a) : !plan.buffer<host>
  }
}

// Pinned buffers have an arena of their own. What the host works on is taken until it has joined, although
// the device is barriers ahead.
// CHECK-LABEL: plan.plan @pinned
plan.plan @pinned {
  // CHECK: plan.program @decode max_tokens 1 memory device arena_bytes 64 pinned_bytes 192 {
  plan.program @decode max_tokens 1 memory device {
    // CHECK-NEXT: plan.alloc 64 offset 0 : <device>
    // CHECK-NEXT: plan.alloc 64 offset 0 : <pinned>
    // CHECK-NEXT: plan.alloc 64 offset 64 : <pinned>
    // CHECK-NEXT: plan.alloc 64 offset 128 : <pinned>
    // CHECK-NEXT: plan.alloc 64 offset 0 : <pinned>
    %x = plan.alloc 64 : !plan.buffer<device>
    %rows = plan.alloc 64 : !plan.buffer<pinned>
    %sums = plan.alloc 64 : !plan.buffer<pinned>
    %meanwhile = plan.alloc 64 : !plan.buffer<pinned>
    %behind = plan.alloc 64 : !plan.buffer<pinned>
    plan.dispatch @g tiles 1 (write %x, write %rows) : !plan.buffer<device>, !plan.buffer<pinned>
    plan.dispatch @k tiles 1 (read %rows, write %sums) : !plan.buffer<pinned>, !plan.buffer<pinned>
    plan.barrier
    plan.dispatch @g tiles 1 (read_write %x) : !plan.buffer<device>
    plan.barrier
    plan.dispatch @g tiles 1 (write %meanwhile) : !plan.buffer<pinned>
    plan.join
    plan.dispatch @g tiles 1 (read %sums, write %behind)
      : !plan.buffer<pinned>, !plan.buffer<pinned>
  }
}
