// A copy needs a size, and that of a cache is known to the session only.
// RUN: moeplan-opt %s --schedule-transfers -verify-diagnostics

plan.kernel @k implements "linear" machine cuda {}
plan.plan @cache_of_another_memory {
  plan.program @decode max_tokens 1 memory device {
    %keys = plan.resource keys 0 : !plan.buffer<host>
    // expected-error @+1 {{operand 0 lies in another memory and has no size to copy}}
    plan.dispatch @k tiles 1 (read %keys) : !plan.buffer<host>
  }
}
