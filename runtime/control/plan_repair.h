// Whether a plan's weights are what they are to be, and how to make copies of them good.
#pragma once

#include "moeplan_generated.h"
#include "runtime/control/switcher.h"
#include "runtime/residency/residency.h"
#include "runtime/support/status.h"

namespace moeplan {

/// Compares the checksums of all weights of `plan`, in the host's memory and in the device's. Those
/// that are damaged on the device alone are copied again while no session makes a step. Errors:
/// MOEPLAN_CORRUPT, naming the first damaged segment.
Status verifyAndRepair(Residency &residency, const fb::Plan &plan,
                       const WithSessions &withSessions);

} // namespace moeplan
