// Copies between memories, and as few barriers as the order of the commands needs.
// RUN: moeplan-opt %s --schedule-transfers | FileCheck %s
// Running the pass again changes nothing.
// RUN: moeplan-opt %s --schedule-transfers -o %t.once
// RUN: moeplan-opt %s --schedule-transfers --schedule-transfers -o %t.twice
// RUN: cmp %t.once %t.twice

plan.kernel @k implements "linear" {}
plan.kernel @g implements "linear" machine cuda {}
plan.segment @"norm@f32" source "norm" format "f32" shape [16]

// CHECK-LABEL: plan.plan @read_after_write
plan.plan @read_after_write {
  plan.program @decode max_tokens 1 memory host {
    // CHECK:      plan.dispatch @k tiles 1 (write %[[X:.*]]) :
    // CHECK-NEXT: plan.barrier
    // CHECK-NEXT: plan.dispatch @k tiles 1 (read %[[X]], write %{{.*}})
    %x = plan.alloc 64 : !plan.buffer<host>
    %y = plan.alloc 64 : !plan.buffer<host>
    plan.dispatch @k tiles 1 (write %x) : !plan.buffer<host>
    plan.dispatch @k tiles 1 (read %x, write %y) : !plan.buffer<host>, !plan.buffer<host>
  }
}

// CHECK-LABEL: plan.plan @write_after_read
plan.plan @write_after_read {
  plan.program @decode max_tokens 1 memory host {
    // CHECK:      plan.dispatch @k tiles 1 (read %[[X:.*]], write %{{.*}}) :
    // CHECK-NEXT: plan.barrier
    // CHECK-NEXT: plan.dispatch @k tiles 1 (write %[[X]])
    %x = plan.alloc 64 : !plan.buffer<host>
    %y = plan.alloc 64 : !plan.buffer<host>
    plan.dispatch @k tiles 1 (read %x, write %y) : !plan.buffer<host>, !plan.buffer<host>
    plan.dispatch @k tiles 1 (write %x) : !plan.buffer<host>
  }
}

// Three products that read one buffer and write three run at the same time: one barrier behind them.
// CHECK-LABEL: plan.plan @independent_dispatches
plan.plan @independent_dispatches {
  plan.program @decode max_tokens 1 memory host {
    // CHECK:      plan.dispatch @k tiles 1 (write %[[X:.*]]) :
    // CHECK-NEXT: plan.barrier
    // CHECK-NEXT: plan.dispatch
    // CHECK-NEXT: plan.dispatch
    // CHECK-NEXT: plan.dispatch
    // CHECK-NEXT: plan.barrier
    // CHECK-NEXT: plan.dispatch @k tiles 1 (read %{{.*}}, read %{{.*}}, read %{{.*}}, write %[[X]])
    // CHECK-NEXT: }
    %x = plan.alloc 64 : !plan.buffer<host>
    %q = plan.alloc 64 : !plan.buffer<host>
    %k = plan.alloc 64 : !plan.buffer<host>
    %v = plan.alloc 64 : !plan.buffer<host>
    plan.dispatch @k tiles 1 (write %x) : !plan.buffer<host>
    plan.dispatch @k tiles 1 (read %x, write %q) : !plan.buffer<host>, !plan.buffer<host>
    plan.dispatch @k tiles 1 (read %x, write %k) : !plan.buffer<host>, !plan.buffer<host>
    plan.dispatch @k tiles 1 (read %x, write %v) : !plan.buffer<host>, !plan.buffer<host>
    plan.dispatch @k tiles 1 (read %q, read %k, read %v, write %x)
      : !plan.buffer<host>, !plan.buffer<host>, !plan.buffer<host>, !plan.buffer<host>
  }
}

// Two values may name one cache; caches of two layers are two.
// CHECK-LABEL: plan.plan @resources_by_kind_and_index
plan.plan @resources_by_kind_and_index {
  plan.program @decode max_tokens 1 memory host {
    // CHECK:      plan.dispatch @k tiles 1 (write %[[LAYER_0:.*]]) :
    // CHECK-NEXT: plan.dispatch @k tiles 1 (write %[[LAYER_1:.*]]) :
    // CHECK-NEXT: plan.barrier
    // CHECK-NEXT: plan.dispatch @k tiles 1 (read %[[AGAIN:.*]]) :
    %layer_0 = plan.resource keys 0 : !plan.buffer<host>
    %layer_1 = plan.resource keys 1 : !plan.buffer<host>
    %again = plan.resource keys 0 : !plan.buffer<host>
    plan.dispatch @k tiles 1 (write %layer_0) : !plan.buffer<host>
    plan.dispatch @k tiles 1 (write %layer_1) : !plan.buffer<host>
    plan.dispatch @k tiles 1 (read %again) : !plan.buffer<host>
  }
}

// Barriers that were there and are not needed go.
// CHECK-LABEL: plan.plan @needless_barriers
plan.plan @needless_barriers {
  plan.program @decode max_tokens 1 memory host {
    // CHECK-NOT: plan.barrier
    // CHECK:     plan.dispatch
    // CHECK-NOT: plan.barrier
    // CHECK:     plan.dispatch
    // CHECK-NOT: plan.barrier
    %x = plan.alloc 64 : !plan.buffer<host>
    %y = plan.alloc 64 : !plan.buffer<host>
    plan.barrier
    plan.dispatch @k tiles 1 (write %x) : !plan.buffer<host>
    plan.barrier
    plan.dispatch @k tiles 1 (write %y) : !plan.buffer<host>
    plan.barrier
  }
}

// A weight in another memory is copied before it is read, with the bytes of its segment.
// CHECK-LABEL: plan.plan @weight_of_another_memory
plan.plan @weight_of_another_memory {
  plan.program @decode max_tokens 1 memory device {
    // CHECK:      %[[X:.*]] = plan.alloc 64 : <device>
    // CHECK-NEXT: %[[W:.*]] = plan.weight @"norm@f32" : <host>
    // CHECK-NEXT: %[[STAGING:.*]] = plan.alloc 64 : <device>
    // CHECK-NEXT: plan.copy %[[W]] to %[[STAGING]] bytes 64 : <host> to <device>
    // CHECK-NEXT: plan.barrier
    // CHECK-NEXT: plan.dispatch @g tiles 1 (read %[[STAGING]], write %[[X]]) : !plan.buffer<device>, !plan.buffer<device>
    %x = plan.alloc 64 : !plan.buffer<device>
    %w = plan.weight @"norm@f32" : !plan.buffer<host>
    plan.dispatch @g tiles 1 (read %w, write %x) : !plan.buffer<host>, !plan.buffer<device>
  }
}

// What is written is copied back, and only that.
// CHECK-LABEL: plan.plan @result_to_another_memory
plan.plan @result_to_another_memory {
  plan.program @decode max_tokens 1 memory device {
    // CHECK:      %[[LOGITS:.*]] = plan.resource logits 0 bytes 128 : <host>
    // CHECK-NEXT: %[[STAGING:.*]] = plan.alloc 128 : <device>
    // CHECK-NEXT: plan.dispatch @g tiles 1 (write %[[STAGING]]) : !plan.buffer<device>
    // CHECK-NEXT: plan.barrier
    // CHECK-NEXT: plan.copy %[[STAGING]] to %[[LOGITS]] bytes 128 : <device> to <host>
    // CHECK-NEXT: }
    %logits = plan.resource logits 0 bytes 128 : !plan.buffer<host>
    plan.dispatch @g tiles 1 (write %logits) : !plan.buffer<host>
  }
}

// What is read and written goes both ways.
// CHECK-LABEL: plan.plan @there_and_back
plan.plan @there_and_back {
  plan.program @decode max_tokens 1 memory device {
    // CHECK:      %[[X:.*]] = plan.alloc 64 : <host>
    // CHECK-NEXT: %[[STAGING:.*]] = plan.alloc 64 : <device>
    // CHECK-NEXT: plan.copy %[[X]] to %[[STAGING]] bytes 64 : <host> to <device>
    // CHECK-NEXT: plan.barrier
    // CHECK-NEXT: plan.dispatch @g tiles 1 (read_write %[[STAGING]]) : !plan.buffer<device>
    // CHECK-NEXT: plan.barrier
    // CHECK-NEXT: plan.copy %[[STAGING]] to %[[X]] bytes 64 : <device> to <host>
    %x = plan.alloc 64 : !plan.buffer<host>
    plan.dispatch @g tiles 1 (read_write %x) : !plan.buffer<host>
  }
}

//===--- work for the host ------------------------------------------------------------------===//

// The host's part follows what it reads without a barrier, and has barriers of its own. What runs beside it
// waits where it needs the results, once.
// CHECK-LABEL: plan.plan @beside_each_other
plan.plan @beside_each_other {
  plan.program @decode max_tokens 1 memory device {
    // CHECK:      plan.dispatch @g tiles 1 (write %[[X:.*]], write %[[ROWS:.*]]) :
    // CHECK-NEXT: plan.dispatch @k tiles 1 (read %[[ROWS]], write %[[H:.*]]) :
    // CHECK-NEXT: plan.barrier
    // CHECK-NEXT: plan.dispatch @k tiles 1 (read %[[H]], write %[[SUMS:.*]]) :
    // CHECK-NEXT: plan.dispatch @g tiles 1 (write %[[OTHER:.*]]) :
    // CHECK-NEXT: plan.barrier
    // CHECK-NEXT: plan.dispatch @g tiles 1 (read_write %[[OTHER]]) :
    // CHECK-NEXT: plan.join
    // CHECK-NEXT: plan.dispatch @g tiles 1 (read %[[SUMS]], read_write %[[OTHER]])
    // CHECK-NEXT: plan.barrier
    // CHECK-NEXT: plan.dispatch @g tiles 1 (read %[[SUMS]], read_write %[[OTHER]])
    // CHECK-NEXT: }
    %x = plan.alloc 64 : !plan.buffer<device>
    %other = plan.alloc 64 : !plan.buffer<device>
    %rows = plan.alloc 64 : !plan.buffer<pinned>
    %h = plan.alloc 64 : !plan.buffer<pinned>
    %sums = plan.alloc 64 : !plan.buffer<pinned>
    plan.dispatch @g tiles 1 (write %x, write %rows) : !plan.buffer<device>, !plan.buffer<pinned>
    plan.dispatch @k tiles 1 (read %rows, write %h) : !plan.buffer<pinned>, !plan.buffer<pinned>
    plan.dispatch @k tiles 1 (read %h, write %sums) : !plan.buffer<pinned>, !plan.buffer<pinned>
    plan.dispatch @g tiles 1 (write %other) : !plan.buffer<device>
    plan.dispatch @g tiles 1 (read_write %other) : !plan.buffer<device>
    plan.dispatch @g tiles 1 (read %sums, read_write %other)
      : !plan.buffer<pinned>, !plan.buffer<device>
    plan.dispatch @g tiles 1 (read %sums, read_write %other)
      : !plan.buffer<pinned>, !plan.buffer<device>
  }
}

// What the host reads is not written before it has.
// CHECK-LABEL: plan.plan @written_behind_the_host
plan.plan @written_behind_the_host {
  plan.program @decode max_tokens 1 memory device {
    // CHECK:      plan.dispatch @k
    // CHECK-NEXT: plan.join
    // CHECK-NEXT: plan.dispatch @g tiles 1 (write
    // CHECK-NEXT: plan.dispatch @k
    // CHECK-NEXT: }
    %rows = plan.alloc 64 : !plan.buffer<pinned>
    %sums = plan.alloc 64 : !plan.buffer<pinned>
    plan.dispatch @k tiles 1 (read %rows, write %sums) : !plan.buffer<pinned>, !plan.buffer<pinned>
    plan.dispatch @g tiles 1 (write %rows) : !plan.buffer<pinned>
    plan.dispatch @k tiles 1 (read %rows, write %sums) : !plan.buffer<pinned>, !plan.buffer<pinned>
  }
}

// The host's table of experts is not the device's, which fetches to its own.
// CHECK-LABEL: plan.plan @tables_of_two_memories
plan.plan @tables_of_two_memories {
  plan.program @decode max_tokens 1 memory device {
    // CHECK-NOT: plan.join
    %sums = plan.alloc 64 : !plan.buffer<pinned>
    %host = plan.resource experts 0 : !plan.buffer<host>
    %device = plan.resource experts 0 : !plan.buffer<device>
    plan.dispatch @k tiles 1 (read %host, write %sums) : !plan.buffer<host>, !plan.buffer<pinned>
    plan.dispatch @g tiles 1 (read_write %device) : !plan.buffer<device>
  }
}
