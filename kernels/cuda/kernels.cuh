// All kernels. One of a plan is a template of namespace moeplan, specialised by a class of
// constants: `template <class C> void NAME(const moeplan_step *step, bindings...)`, the step in
// device memory. Bindings arrive as untyped pointers. Grids do not depend on the step: what lies
// behind its last token is left out by the kernel.
#pragma once

#include "attention.cuh"
#include "attention_prompt.cuh"
#include "candidates.cuh"
#include "elementwise.cuh"
#include "experts.cuh"
#include "experts_prompt.cuh"
#include "fetch.cuh"
#include "generate.cuh"
#include "host_experts.cuh"
#include "linear.cuh"
#include "linear_prompt.cuh"
#include "qkv.cuh"
#include "qkv_prompt.cuh"
#include "router.cuh"
