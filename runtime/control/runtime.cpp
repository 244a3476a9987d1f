#include "runtime/control/runtime.h"

#include "runtime/control/plan_ranking.h"
#include "runtime/control/plan_repair.h"
#include "runtime/control/switcher.h"

#include <algorithm>
#include <iterator>
#include <pthread.h>
#include <sched.h>
#include <sys/resource.h>
#include <unistd.h>
#include <utility>

namespace moeplan {

namespace {

/// A session that has made no step for so long is idle.
constexpr std::chrono::seconds kIdle(2);
/// How often the thread looks for idle sessions.
constexpr std::chrono::seconds kLookForIdle(1);

BudgetRules rulesOf(const fb::Artifact &artifact, const RuntimeOptions &options) {
  BudgetRules rules;
  if (const fb::Switching *switching = artifact.switching())
    rules = {switching->hysteresis(), switching->min_seconds()};
  rules.hysteresis = options.hysteresis.value_or(rules.hysteresis);
  rules.minSeconds = options.minSeconds.value_or(rules.minSeconds);
  return rules;
}

double shareOf(const fb::Artifact &artifact, const RuntimeOptions &options) {
  constexpr double kShare = 0.5;
  return options.bandwidthShare.value_or(
      artifact.switching() ? artifact.switching()->bandwidth_share() : kShare);
}

Status checkOptions(const RuntimeOptions &options) {
  auto check = [](const char *name, std::optional<double> value, bool valid) {
    return !value || valid ? Status()
                           : invalidArgument(std::string(name) + " is " + std::to_string(*value));
  };
  const double share = options.bandwidthShare.value_or(1);
  const double hysteresis = options.hysteresis.value_or(0);
  MOEPLAN_TRY(check("bandwidth_share", options.bandwidthShare, share > 0 && share <= 1));
  MOEPLAN_TRY(check("hysteresis", options.hysteresis, hysteresis >= 0 && hysteresis < 1));
  return check("min_seconds", options.minSeconds, options.minSeconds.value_or(0) >= 0);
}

/// Lets this thread never take the CPU from one that makes tokens. Advice.
void yieldToOthers() {
  constexpr int kNice = 10;
  const sched_param none{};
  (void)pthread_setschedparam(pthread_self(), SCHED_BATCH, &none);
  (void)setpriority(PRIO_PROCESS, static_cast<id_t>(gettid()), kNice);
}

Status nothingFits(const std::vector<Candidate> &candidates, uint64_t budget) {
  const auto smallest =
      std::min_element(candidates.begin(), candidates.end(),
                       [](const Candidate &a, const Candidate &b) { return a.bytes < b.bytes; });
  if (smallest == candidates.end())
    return exhausted("there is no plan that this device could run");
  return exhausted("no plan fits " + std::to_string(budget) + " bytes of device memory: '" +
                   smallest->plan->name()->str() + "', the smallest, takes " +
                   std::to_string(smallest->bytes));
}

} // namespace

Result<std::shared_ptr<Runtime>> Runtime::create(const Artifact &artifact, RuntimeOptions options) {
  MOEPLAN_TRY(checkOptions(options));
  MOEPLAN_ASSIGN(std::shared_ptr<Backend> backend, Backend::create(artifact, options.device));
  return std::shared_ptr<Runtime>(new Runtime(std::move(backend), std::move(options)));
}

Runtime::Runtime(std::shared_ptr<Backend> backend, RuntimeOptions options)
    : backend_(std::move(backend)), listener_(std::move(options.listener)),
      bandwidthShare_(shareOf(backend_->artifact().metadata(), options)),
      budgetPolicy_(rulesOf(backend_->artifact().metadata(), options)),
      ranking_(rankPlans(backend_->artifact().metadata())),
      byQuality_(rankPlansByQuality(backend_->artifact().metadata())), canary_(*backend_) {}

Runtime::~Runtime() {
  {
    const std::lock_guard lock(mutex_);
    stop_ = true;
  }
  wake_.notify_all();
  if (thread_.joinable())
    thread_.join();
}

void Runtime::tell(const Event &event) {
  if (!listener_)
    return;
  const std::lock_guard lock(tellMutex_);
  listener_(event);
}

void Runtime::tell(Event event, const Controlled &controlled) {
  event.session = controlled.session.get();
  event.owner = controlled.owner;
  tell(event);
}

// ---- sessions ----

Result<Session *> Runtime::createSession(SessionOptions options, const void *owner) {
  const Artifact &artifact = backend_->artifact();
  Device &device = backend_->device();
  MOEPLAN_TRY(Session::check(artifact, options, device.hasOwnMemory()));
  if (!options.plan && device.budget() != Device::kNoBudget) {
    const std::lock_guard lock(mutex_);
    const std::vector<Candidate> fitting = candidates(Session::fixedBytes(*backend_, options));
    const BudgetChoice choice =
        budgetPolicy_.choose(fitting, nullptr, device.budget(), Clock::now());
    if (!choice.plan)
      return nothingFits(fitting, device.budget());
    options.plan = choice.plan->name()->c_str();
  }
  MOEPLAN_ASSIGN(std::unique_ptr<Session> session, Session::create(backend_, options));
  auto controlled = std::make_unique<Controlled>(*this, std::move(session), owner);
  Session *result = controlled->session.get();
  result->setListener(controlled.get());
  const std::lock_guard lock(mutex_);
  sessions_.push_back(std::move(controlled));
  if (canary_.everyTokens() > 0)
    startThread(); // which looks for idle ones
  return result;
}

void Runtime::closeSession(Session *session) {
  std::unique_ptr<Controlled> closed;
  {
    std::unique_lock lock(mutex_);
    Controlled *controlled = find(*session);
    controlled->closing = true;
    controlled->wanted = nullptr;
    ++controlled->request;
    answered_.notify_all();
    answered_.wait(lock, [&] { return controlled->pins == 0; });
    const auto at = std::find_if(sessions_.begin(), sessions_.end(),
                                 [&](const auto &s) { return s.get() == controlled; });
    closed = std::move(*at);
    sessions_.erase(at);
  }
}

void Runtime::Controlled::stepped(Session &, size_t tokens) {
  const uint64_t every = runtime.canary_.everyTokens();
  if (every == 0)
    return;
  lastStep = Clock::now();
  if ((tokensSinceCheck += tokens) >= every && !checkDue.exchange(true))
    runtime.wake();
}

Runtime::Controlled *Runtime::find(const Session &session) const {
  for (const auto &controlled : sessions_)
    if (controlled->session.get() == &session)
      return controlled.get();
  return nullptr;
}

void Runtime::withSessions(const std::function<void(const std::vector<Session *> &)> &action) {
  std::vector<Controlled *> pinned;
  std::vector<Session *> sessions;
  {
    const std::lock_guard lock(mutex_);
    for (const auto &controlled : sessions_)
      if (!controlled->closing) {
        ++controlled->pins;
        pinned.push_back(controlled.get());
        sessions.push_back(controlled->session.get());
      }
  }
  action(sessions);
  const std::lock_guard lock(mutex_);
  for (Controlled *controlled : pinned)
    --controlled->pins;
  answered_.notify_all();
}

// ---- choosing ----

uint64_t Runtime::bytesUnder(const fb::Plan &plan, std::optional<uint64_t> fixedOfOneMore) const {
  const Residency &residency = backend_->residency();
  const uint64_t perSession = workingBytes(residency, plan);
  uint64_t bytes = countedWeightBytes(residency, plan);
  for (const auto &controlled : sessions_)
    bytes += controlled->session->fixedBytes() + perSession;
  return fixedOfOneMore ? bytes + *fixedOfOneMore + perSession : bytes;
}

std::vector<Candidate> Runtime::candidates(std::optional<uint64_t> fixedOfOneMore) const {
  std::vector<Candidate> result;
  for (const fb::Plan *plan : ranking_)
    if (!quarantined_.contains(plan) && (backend_->device().hasOwnMemory() || !usesDevice(*plan)))
      result.push_back({plan, bytesUnder(*plan, fixedOfOneMore)});
  return result;
}

Status Runtime::checkChoice(const fb::Plan &plan) const {
  const std::string name = "plan '" + plan.name()->str() + "'";
  if (usesDevice(plan) && !backend_->device().hasOwnMemory())
    return unsupported(name + " keeps experts in device memory; the cpu device has none");
  if (const auto found = quarantined_.find(&plan); found != quarantined_.end())
    return Status(MOEPLAN_QUARANTINED, name + " is quarantined: " + found->second);
  const uint64_t bytes = bytesUnder(plan, std::nullopt), budget = backend_->device().budget();
  if (bytes > budget)
    return exhausted(name + " takes " + std::to_string(bytes) +
                     " bytes of device memory, the budget is " + std::to_string(budget));
  return {};
}

void Runtime::request(Controlled &controlled, const fb::Plan &plan, std::string rollbackReason) {
  controlled.wanted = &plan;
  controlled.rollbackReason = std::move(rollbackReason);
  ++controlled.request;
  answered_.notify_all();
  startThread();
  wake_.notify_all();
}

Status Runtime::switchPlan(Session &session, const char *name, bool wait) {
  MOEPLAN_ASSIGN(const fb::Plan *plan, backend_->artifact().plan(name));
  std::unique_lock lock(mutex_);
  MOEPLAN_TRY(checkChoice(*plan));
  Controlled &controlled = *find(session);
  request(controlled, *plan);
  if (!wait)
    return {};
  const uint64_t number = controlled.request;
  answered_.wait(lock,
                 [&] { return controlled.answered >= number || controlled.request != number; });
  if (controlled.answered != number)
    return Status(MOEPLAN_CANCELLED, "a later request took the place of this one");
  return controlled.answer;
}

Status Runtime::setDeviceBudget(uint64_t bytes) {
  Event event{.kind = MOEPLAN_EVENT_BUDGET, .bytes = bytes};
  {
    const std::lock_guard lock(mutex_);
    if (!sessions_.empty()) {
      const std::vector<Candidate> all = candidates();
      const BudgetChoice choice = budgetPolicy_.choose(all, nullptr, bytes, Clock::now());
      if (!choice.plan)
        return nothingFits(all, bytes);
      event.plan = choice.plan;
    }
    backend_->device().setBudget(bytes);
    budgetChanged_ = true;
    startThread();
  }
  tell(event);
  wake_.notify_all();
  return {};
}

void Runtime::followBudget(Clock::time_point now) {
  budgetChanged_ = false;
  askBudgetAgain_.reset();
  bool switched = false;
  const std::vector<Candidate> all = candidates();
  for (const auto &controlled : sessions_) {
    const fb::Plan *current =
        controlled->wanted ? controlled->wanted : &controlled->session->plan();
    const BudgetChoice choice =
        budgetPolicy_.choose(all, current, backend_->device().budget(), now);
    if (choice.askAgain)
      askBudgetAgain_ = choice.askAgain;
    if (!choice.plan || choice.plan == current)
      continue;
    request(*controlled, *choice.plan);
    switched = true;
  }
  if (switched)
    budgetPolicy_.switched(now);
}

Status Runtime::setCanary(std::span<const int32_t> tokens, const CanaryLimits &limits) {
  MOEPLAN_TRY(canary_.set(tokens, limits, *byQuality_.front()));
  const std::lock_guard lock(mutex_);
  if (limits.everyTokens > 0)
    startThread();
  return {};
}

Status Runtime::verifyPlan(const char *name) {
  MOEPLAN_ASSIGN(const fb::Plan *plan, backend_->artifact().plan(name));
  MOEPLAN_TRY(verifyAndRepair(backend_->residency(), *plan,
                              [&](const auto &action) { withSessions(action); }));
  {
    const std::lock_guard lock(mutex_);
    if (quarantined_.erase(plan) == 0)
      return {};
    budgetChanged_ = backend_->device().budget() != Device::kNoBudget;
  }
  tell({.kind = MOEPLAN_EVENT_VERIFIED, .plan = plan});
  wake_.notify_all();
  return {};
}

// ---- the thread ----

void Runtime::startThread() {
  if (!thread_.joinable())
    thread_ = std::thread([this] { work(); });
}

void Runtime::wake() {
  const std::lock_guard lock(mutex_);
  startThread();
  wake_.notify_all();
}

Runtime::Controlled *Runtime::nextSwitch() {
  for (const auto &controlled : sessions_)
    if (controlled->wanted)
      return controlled.get();
  return nullptr;
}

Runtime::Controlled *Runtime::nextRestore() {
  for (const auto &controlled : sessions_)
    if (controlled->restoreDue && !controlled->closing)
      return controlled.get();
  return nullptr;
}

Runtime::Controlled *Runtime::nextCheck() {
  const Clock::time_point now = Clock::now();
  for (const auto &controlled : sessions_) {
    if (canary_.everyTokens() > 0 && controlled->tokensSinceCheck > 0 &&
        now - controlled->lastStep.load() > kIdle)
      controlled->checkDue = true;
    if (controlled->checkDue && !controlled->closing)
      return controlled.get();
  }
  return nullptr;
}

void Runtime::work() {
  yieldToOthers();
  std::unique_lock lock(mutex_);
  while (!stop_) {
    if (budgetChanged_ || (askBudgetAgain_ && Clock::now() >= *askBudgetAgain_))
      followBudget(Clock::now());
    if (Controlled *controlled = nextSwitch()) {
      runSwitch(*controlled, lock);
    } else if (Controlled *controlled = nextRestore()) {
      runRestore(*controlled, lock);
    } else if (Controlled *controlled = nextCheck()) {
      runCheck(*controlled, lock);
    } else {
      const Clock::time_point idle =
          Clock::now() + (canary_.everyTokens() > 0 ? kLookForIdle : std::chrono::hours(24));
      wake_.wait_until(lock, askBudgetAgain_ ? std::min(idle, *askBudgetAgain_) : idle);
    }
  }
}

void Runtime::runSwitch(Controlled &controlled, std::unique_lock<std::mutex> &lock) {
  const fb::Plan &target = *std::exchange(controlled.wanted, nullptr);
  const uint64_t number = controlled.request;
  const std::string reason = controlled.rollbackReason;
  ++controlled.pins;
  lock.unlock();
  const fb::Plan *from = &controlled.session->plan();
  auto stillWanted = [&] {
    const std::lock_guard inner(mutex_);
    return !stop_ && controlled.request == number;
  };
  Switcher switcher(
      *backend_, *controlled.session, target, {.share = bandwidthShare_, .keepGoing = stillWanted},
      [&](const auto &action) { withSessions(action); },
      [&](const Event &event) { tell(event, controlled); });
  Status status = switcher.run();
  if (status.ok() && !reason.empty())
    tell({.kind = MOEPLAN_EVENT_ROLLED_BACK, .from = from, .plan = &target, .reason = reason},
         controlled);
  lock.lock();
  if (status.ok() && from != &target && canary_.enabled())
    controlled.checkDue = true;
  if (switcher.hasEvicted())
    for (const auto &other : sessions_)
      other->restoreDue = true;
  controlled.answered = number;
  controlled.answer = std::move(status);
  --controlled.pins;
  answered_.notify_all();
}

void Runtime::runRestore(Controlled &controlled, std::unique_lock<std::mutex> &lock) {
  controlled.restoreDue = false;
  ++controlled.pins;
  lock.unlock();
  auto nothingElse = [&] {
    const std::lock_guard inner(mutex_);
    return !stop_ && !controlled.closing && !budgetChanged_ && !nextSwitch();
  };
  Switcher switcher(*backend_, *controlled.session, controlled.session->plan(),
                    {.share = bandwidthShare_, .keepGoing = nothingElse}, {}, {});
  const Status status = switcher.bringBack();
  lock.lock();
  // Where there was no room, what is missing stays in the host's memory until something changes.
  if (status.code() == MOEPLAN_CANCELLED)
    controlled.restoreDue = true;
  --controlled.pins;
  answered_.notify_all();
}

void Runtime::runCheck(Controlled &controlled, std::unique_lock<std::mutex> &lock) {
  controlled.checkDue = false;
  controlled.tokensSinceCheck = 0;
  ++controlled.pins;
  lock.unlock();
  // Whatever else there is to do comes first; the check is then begun again.
  auto nothingElse = [&] {
    const std::lock_guard inner(mutex_);
    return !stop_ && !controlled.closing && !budgetChanged_ && !nextSwitch();
  };
  auto result = canary_.check(*controlled.session, nothingElse);
  if (result.ok())
    judge(controlled, result.value());
  else if (result.failure().code() == MOEPLAN_CANCELLED)
    controlled.checkDue = true;
  lock.lock();
  --controlled.pins;
  answered_.notify_all();
}

/// The next better plan that may be chosen; where there is none, the best of the others.
const fb::Plan *Runtime::fallbackFor(const fb::Plan &plan) const {
  const auto mayBeChosen = [&](const fb::Plan *other) { return checkChoice(*other).ok(); };
  const auto self = std::find(byQuality_.begin(), byQuality_.end(), &plan);
  const auto better =
      std::find_if(std::make_reverse_iterator(self), byQuality_.rend(), mayBeChosen);
  if (better != byQuality_.rend())
    return *better;
  const auto best = std::find_if(ranking_.begin(), ranking_.end(), mayBeChosen);
  return best == ranking_.end() ? nullptr : *best;
}

void Runtime::judge(Controlled &controlled, const CheckResult &result) {
  using Verdict = CheckResult::Verdict;
  const fb::Plan &plan = *result.plan;
  Event event{.kind = MOEPLAN_EVENT_CANARY,
              .plan = &plan,
              .seconds = result.seconds,
              .perplexityIncrease = result.perplexityIncrease,
              .divergence = result.divergence,
              .reason = result.reason};
  if (result.verdict == Verdict::passed)
    return tell(event, controlled);
  event.kind = MOEPLAN_EVENT_QUARANTINED;
  std::string reason = result.reason;
  if (result.verdict == Verdict::changed) {
    // Copies on the device can be made good; then the plan is right again.
    const Status intact = verifyAndRepair(backend_->residency(), plan,
                                          [&](const auto &action) { withSessions(action); });
    const auto again = intact.ok() ? canary_.check(*controlled.session, {}) : intact;
    if (again.ok() && again.value().verdict == Verdict::passed) {
      event.reason += "; its weights have been copied again";
      tell(event, controlled);
      return tell({.kind = MOEPLAN_EVENT_VERIFIED, .plan = &plan});
    }
    reason += intact.ok() ? "; its weights are intact" : "; " + intact.message();
  }
  event.reason = reason;
  {
    const std::lock_guard lock(mutex_);
    quarantined_[&plan] = reason;
  }
  tell(event, controlled);
  const std::lock_guard lock(mutex_);
  const fb::Plan *next = fallbackFor(plan);
  if (!next)
    return;
  for (const auto &other : sessions_)
    if (&other->session->plan() == &plan && !other->closing)
      request(*other, *next, reason);
}

} // namespace moeplan
