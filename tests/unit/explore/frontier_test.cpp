#include "tests/unit/explore/example_frontier.h"

#include <gtest/gtest.h>
#include <nlohmann/json.hpp>

#include <limits>

namespace moeplan::testing {
namespace {

using namespace compiler;
using nlohmann::json;

FrontierPoint point(double increase, double speed, uint64_t device, uint64_t host,
                    bool paper = false) {
  FrontierPoint result;
  result.isPaper = paper;
  result.costs.perplexityIncrease = increase;
  result.costs.tokensPerSecond = speed;
  result.costs.device.weights = device;
  result.costs.host.weights = host;
  return result;
}

std::vector<bool> marks(std::vector<FrontierPoint> points, bool hasDevice = true) {
  Frontier frontier;
  frontier.hasDevice = hasDevice;
  frontier.points = std::move(points);
  markFrontier(frontier);
  std::vector<bool> result;
  for (const FrontierPoint &p : frontier.points)
    result.push_back(p.onFrontier);
  return result;
}

using Marks = std::vector<bool>;

TEST(FrontierTest, OnePointIsOnTheFrontier) {
  EXPECT_EQ(marks({point(0.1, 5, 7, 7)}), Marks{true});
}

TEST(FrontierTest, WorseInOneAndBetterInNothingIsOff) {
  EXPECT_EQ(marks({point(0.1, 5, 7, 7), point(0.2, 5, 7, 7)}), (Marks{true, false}));
  EXPECT_EQ(marks({point(0.1, 5, 7, 7), point(0.1, 4, 7, 7)}), (Marks{true, false}));
  EXPECT_EQ(marks({point(0.1, 5, 7, 7), point(0.1, 5, 8, 7)}), (Marks{true, false}));
  EXPECT_EQ(marks({point(0.1, 5, 7, 7), point(0.1, 5, 7, 8)}), (Marks{true, false}));
}

TEST(FrontierTest, BetterInOneThingIsEnough) {
  EXPECT_EQ(marks({point(0.1, 5, 7, 7), point(0.2, 4, 8, 6)}), (Marks{true, true}));
}

TEST(FrontierTest, EqualPointsAreBothOn) {
  EXPECT_EQ(marks({point(0.1, 5, 7, 7), point(0.1, 5, 7, 7, true)}), (Marks{true, true}));
}

TEST(FrontierTest, DeviceMemoryCountsOnlyWithADevice) {
  const std::vector<FrontierPoint> points{point(0.1, 5, 9, 7), point(0.2, 5, 1, 7)};
  EXPECT_EQ(marks(points, true), (Marks{true, true}));
  EXPECT_EQ(marks(points, false), (Marks{true, false}));
}

TEST(FrontierTest, PlannersCompeteWithEachOther) {
  EXPECT_EQ(marks({point(0.2, 5, 7, 7), point(0.1, 5, 7, 7, true)}), (Marks{false, true}));
}

/// Two points of one layer of two experts, one of them measured, with hostile names.
Frontier smallFrontier() {
  Frontier frontier;
  frontier.model = "a \"model\"";
  frontier.profile = "</script><script>alert(1)</script><!--";
  frontier.qualitySource = "a guess";
  frontier.numLayers = 1;
  frontier.numExperts = 2;
  frontier.numExpertsPerToken = 1;
  frontier.context = 512;
  frontier.batch = 2;
  frontier.hasDevice = true;
  FrontierPoint ours = point(0.0123456789, 21.5, 3'000'000'000, 7);
  ours.name = "fast, \"small\"";
  ours.isTier = true;
  ours.budgetBytes = 36'130'000'000;
  ours.gap = 0.001;
  ours.costs.nats = 0.25;
  ours.costs.decodeSeconds = 0.1;
  ours.costs.prefillTokensPerSecond = 300;
  ours.costs.bitsPerWeight = 4.25;
  ours.costs.expertsOnDevice = 1;
  ours.costs.device.context = 500;
  const FormatInfo *int4 = findFormat("int4g64"), *int8 = findFormat("int8g64");
  ours.placement.experts = {{{int4, int4, int8}, Residency::Device},
                            {{int8, int4, int4}, Residency::Host}};
  ours.placement.miss = MissStrategy::Cached;
  ours.placement.cacheSlots = 3;
  ours.measured = MeasuredPlan{6.5, 0.011, 0.002, 1.5};
  FrontierPoint paper = point(0, std::numeric_limits<double>::infinity(), 1, 2, true);
  paper.name = "paper-1.00GB";
  paper.placement.experts = {2, {{int8, int8, int8}, Residency::Host}};
  frontier.points = {ours, paper};
  return frontier;
}

TEST(FrontierTest, CsvHasARowPerPoint) {
  EXPECT_EQ(frontierCsv(smallFrontier()),
            "name,planner,tier,on_frontier,budget_bytes,device_bytes,host_bytes,experts_on_device,"
            "bits_per_weight,miss_strategy,cache_slots,perplexity_increase,tokens_per_second,"
            "prefill_tokens_per_second,gap,measured_perplexity,measured_perplexity_increase,"
            "measured_standard_error,measured_tokens_per_second\n"
            "\"fast, \"\"small\"\"\",moeplan,true,false,36130000000,3000000500,7,1,4.25,cached,3,"
            "0.0123457,21.5,300,0.001,6.5,0.011,0.002,1.5\n"
            "paper-1.00GB,paper,false,false,0,1,2,0,0,none,0,0,,0,0,,,,\n");
}

TEST(FrontierTest, JsonHasEverything) {
  const json j = json::parse(frontierJson(smallFrontier()));
  EXPECT_EQ(j["model"], "a \"model\"");
  EXPECT_EQ(j["profile"], "</script><script>alert(1)</script><!--");
  EXPECT_EQ(j["quality_source"], "a guess");
  EXPECT_EQ(j["num_layers"], 1);
  EXPECT_EQ(j["num_experts"], 2);
  EXPECT_EQ(j["num_experts_per_tok"], 1);
  EXPECT_EQ(j["context"], 512);
  EXPECT_EQ(j["batch"], 2);
  EXPECT_EQ(j["has_device"], true);
  EXPECT_TRUE(j["reference_perplexity"].is_null());
  ASSERT_EQ(j["points"].size(), 2u);
  const json &ours = j["points"][0];
  EXPECT_EQ(ours["name"], "fast, \"small\"");
  EXPECT_EQ(ours["planner"], "moeplan");
  EXPECT_EQ(ours["tier"], true);
  EXPECT_EQ(ours["on_frontier"], false);
  EXPECT_EQ(ours["budget_bytes"], 36'130'000'000u);
  EXPECT_EQ(ours["gap"], 0.001);
  EXPECT_EQ(ours["predicted"], json::parse(R"({
    "nats": 0.25, "perplexity_increase": 0.0123456789, "decode_seconds": 0.1,
    "tokens_per_second": 21.5, "prefill_tokens_per_second": 300, "bits_per_weight": 4.25,
    "experts_on_device": 1,
    "device_bytes": {"weights": 3000000000, "kv_cache": 0, "activations": 0, "staging": 0,
                     "context": 500, "total": 3000000500},
    "host_bytes": {"weights": 7, "kv_cache": 0, "activations": 0, "staging": 0, "context": 0,
                   "total": 7}})"));
  EXPECT_EQ(ours["measured"], json::parse(R"({"perplexity": 6.5, "perplexity_increase": 0.011,
    "standard_error": 0.002, "tokens_per_second": 1.5})"));
  EXPECT_EQ(ours["placement"], json::parse(R"({"miss_strategy": "cached", "cache_slots": 3,
    "layers": ["bbaD abbH"]})"));
  const json &paper = j["points"][1];
  EXPECT_EQ(paper["planner"], "paper");
  EXPECT_TRUE(paper["measured"].is_null());
  EXPECT_TRUE(paper["predicted"]["tokens_per_second"].is_null()) << "there is no JSON for infinity";
  EXPECT_EQ(paper["placement"]["layers"], json({"aaaH aaaH"}));
}

TEST(FrontierTest, PlacementDecodesBack) {
  const Frontier frontier = exampleFrontier({.numLayers = 5, .numBudgets = 3});
  const json j = json::parse(frontierJson(frontier));
  ASSERT_EQ(j["points"].size(), frontier.points.size());
  for (size_t i = 0; i < frontier.points.size(); ++i) {
    std::vector<ExpertPlacement> experts;
    for (const std::string layer : j["points"][i]["placement"]["layers"])
      for (size_t at = 0; at < layer.size(); at += 5) {
        ExpertPlacement expert;
        for (size_t matrix = 0; matrix < 3; ++matrix) {
          const json &format = j["formats"].at(size_t(layer[at + matrix] - 'a'));
          expert.formats[matrix] = findFormat(format["name"].get<std::string>());
        }
        expert.residency = layer[at + 3] == 'D' ? Residency::Device : Residency::Host;
        experts.push_back(expert);
      }
    EXPECT_EQ(experts, frontier.points[i].placement.experts) << frontier.points[i].name;
  }
}

TEST(FrontierTest, SameBytesEachTime) {
  EXPECT_EQ(frontierJson(exampleFrontier({})), frontierJson(exampleFrontier({})));
  EXPECT_EQ(frontierHtml(exampleFrontier({})), frontierHtml(exampleFrontier({})));
}

size_t count(std::string_view text, std::string_view word) {
  size_t result = 0;
  for (size_t at = text.find(word); at != text.npos; at = text.find(word, at + 1))
    ++result;
  return result;
}

TEST(FrontierTest, PageNeedsNoNetwork) {
  const std::string page = frontierHtml(exampleFrontier({.measured = true}));
  EXPECT_EQ(count(page, "https://"), 0u);
  EXPECT_EQ(count(page, "http://"), count(page, "'http://www.w3.org/2000/svg'"));
  EXPECT_EQ(count(page, " src="), 0u);
  EXPECT_EQ(count(page, "@import"), 0u);
  EXPECT_EQ(count(page, "url("), count(page, "url(#"));
}

TEST(FrontierTest, PageHoldsTheDataWhateverNamesHold) {
  const Frontier frontier = smallFrontier();
  const std::string page = frontierHtml(frontier);
  EXPECT_EQ(count(page, "</script"), 2u) << "that of the data and that of the page's script";
  EXPECT_EQ(page.find("alert(1)</"), std::string::npos);
  const std::string_view begin = "<script type=\"application/json\" id=\"frontier\">";
  const size_t from = page.find(begin) + begin.size();
  const std::string_view data =
      std::string_view(page).substr(from, page.find("</script", from) - from);
  EXPECT_EQ(data.find('<'), data.npos);
  EXPECT_EQ(json::parse(data), json::parse(frontierJson(frontier)));
}

} // namespace
} // namespace moeplan::testing
