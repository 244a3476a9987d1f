// Barriers that order nothing are removed; buffers are declarations and do not count as commands.
// RUN: moeplan-opt %s --canonicalize | FileCheck %s

plan.kernel @k implements "linear" {}

// CHECK-LABEL: plan.plan @barriers_in_a_row_are_one
plan.plan @barriers_in_a_row_are_one {
  // CHECK: plan.program
  // CHECK:      plan.dispatch
  // CHECK:      plan.barrier
  // CHECK-NOT:  plan.barrier
  // CHECK:      plan.dispatch
  plan.program @decode max_tokens 1 memory host {
    %x = plan.alloc 64 : !plan.buffer<host>
    plan.dispatch @k tiles 1 (write %x) : !plan.buffer<host>
    plan.barrier
    plan.barrier
    %y = plan.alloc 64 : !plan.buffer<host>
    plan.barrier
    plan.dispatch @k tiles 1 (read %x, write %y) : !plan.buffer<host>, !plan.buffer<host>
  }
}

// CHECK-LABEL: plan.plan @barriers_at_the_ends
plan.plan @barriers_at_the_ends {
  // CHECK-NOT: plan.barrier
  // CHECK:     plan.copy
  // CHECK-NOT: plan.barrier
  plan.program @decode max_tokens 1 memory host {
    plan.barrier
    %x = plan.alloc 64 : !plan.buffer<host>
    plan.barrier
    %l = plan.resource logits 0 bytes 64 : !plan.buffer<host>
    plan.copy %x to %l bytes 64 : !plan.buffer<host> to !plan.buffer<host>
    plan.barrier
  }
}

// CHECK-LABEL: plan.plan @barrier_between_copies_stays
plan.plan @barrier_between_copies_stays {
  // CHECK: plan.copy
  // CHECK-NEXT: plan.barrier
  // CHECK-NEXT: plan.copy
  plan.program @decode max_tokens 1 memory host {
    %x = plan.alloc 64 : !plan.buffer<host>
    %y = plan.alloc 64 : !plan.buffer<host>
    %l = plan.resource logits 0 bytes 64 : !plan.buffer<host>
    plan.copy %x to %y bytes 64 : !plan.buffer<host> to !plan.buffer<host>
    plan.barrier
    plan.copy %y to %l bytes 64 : !plan.buffer<host> to !plan.buffer<host>
  }
}

// A join is a barrier.
// CHECK-LABEL: plan.plan @barriers_beside_a_join
plan.plan @barriers_beside_a_join {
  // CHECK:      plan.dispatch
  // CHECK-NEXT: plan.join
  // CHECK-NEXT: plan.dispatch
  plan.program @decode max_tokens 1 memory device {
    %x = plan.alloc 64 : !plan.buffer<pinned>
    plan.dispatch @k tiles 1 (write %x) : !plan.buffer<pinned>
    plan.barrier
    plan.join
    plan.barrier
    plan.dispatch @k tiles 1 (read %x) : !plan.buffer<pinned>
  }
}
