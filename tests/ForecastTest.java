package difyexec;

import com.fasterxml.jackson.databind.JsonNode;
import org.junit.jupiter.api.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.Given.json;
import static difyexec.Given.tree;
import static org.junit.jupiter.api.Assertions.*;

/// `run --sample`, and what the remaining rows of a batch will take.
final class ForecastTest extends WholeCommand {
    private static final int ROWS = 2_000, SAMPLE = 50;

    /// A batch in which some rows have a result. Each took a second, and this many ran at a time.
    private final class Finished {
        private final Given.PastBatch past = new Given.PastBatch(1, 10, 0);
        private int together;
        private int count = 0;

        Finished(int together) {
            this.together = together;
        }

        void session(int second, int together) {
            past.second = second;
            past.session();
            this.together = together;
            count = second * together;
        }

        Finished row(String id, int tokens, Double price) {
            return row(id, tokens, price, "USD", 1);
        }

        /// @param price null if there is none
        Finished row(String id, int tokens, Double price, String currency, double seconds) {
            past.second = count++ / together;
            past.attempt(id).result(id, Map.of(), "total_tokens", tokens, "total_price", price,
                    "currency", currency, "seconds", seconds);
            return this;
        }

        /// Adds rows 1 to `count`, with as many tokens each.
        Finished rows(int count, int tokens, Double price) {
            for (int id = 1; id <= count; id++) row("" + id, tokens, price);
            return this;
        }

        void save() throws IOException {
            past.save(file("results.jsonl"));
        }
    }

    private JsonNode forecast() throws IOException {
        return tree(ofBatch("status", "--json").out()).path("forecast");
    }

    private static boolean contains(JsonNode range, double number) {
        return range.path("low").asDouble() <= number && number <= range.path("high").asDouble();
    }

    @Nested
    class AForecastOfSkewedPrices {
        /// The ids are in the order of the prices, so the first rows are the cheapest.
        private double[] sortedPrices(long seed) {
            var random = new Random(seed);
            return IntStream.range(0, ROWS).mapToDouble(_ -> Math.exp(random.nextGaussian()) / 100).sorted().toArray();
        }

        private double finish(BitSet entries, double[] prices) throws IOException {
            var batch = new Finished(5);
            for (int entry : entries.stream().toArray()) batch.row("" + (entry + 1), 100, prices[entry]);
            batch.save();
            return IntStream.range(0, ROWS).filter(entry -> !entries.get(entry)).mapToDouble(n -> prices[n]).sum();
        }

        /// An interval of 90 % from 50 so skewed values contains the true sum in about 84 % of the samples.
        @Test
        void containsTheTrueCostForMostSamples() throws IOException {
            rows(ROWS);
            var files = BatchFiles.of(file("results.jsonl"));
            int contained = 0;
            try (var csv = Csv.open(file("data.csv"), Csv.Shape.DEFAULT)) {
                var none = Batch.ofRows(files, csv);
                for (int seed = 1; seed <= 20; seed++) {
                    var prices = sortedPrices(seed);
                    var chosen = none.select(Batch.Selection.PENDING.random(SAMPLE, seed));
                    double rest = finish(chosen.entries(), prices);
                    if (contains(forecast().at("/cost/USD"), rest)) contained++;
                }
            }

            assertTrue(contained >= 15, contained + " of 20");
        }
    }

    /// A server that charges by the length of a row's text.
    @Nested
    class AForecastAgainstTheSimulator {
        /// Writes rows sorted by their length and returns the tokens of each. A token costs 0.0000015 USD.
        private int[] sortedTexts() throws IOException {
            var random = new Random(5);
            var tokens = IntStream.range(0, ROWS).map(_ -> 16 + (int) (100 * Math.exp(random.nextGaussian())))
                    .sorted().toArray();
            var lines = new ArrayList<>(List.of("id,text"));
            for (int row = 0; row < ROWS; row++) lines.add(row + 1 + "," + "x".repeat(3 * (tokens[row] - 16)));
            csv(lines.toArray(String[]::new));
            return tokens;
        }

        private double costOfRest(int[] tokens) throws IOException {
            var finished = Set.copyOf(ids());
            return IntStream.range(0, ROWS).filter(row -> !finished.contains("" + (row + 1)))
                    .mapToDouble(row -> tokens[row] * 0.0000015).sum();
        }

        @Test
        void containsTheCostOfTheRemainingRowsIfMadeFromASample() throws IOException {
            var dify = new Simulated("--latency", "20ms");
            var tokens = sortedTexts();

            var call = call(dify.settings(), typed("run", "--sample", "" + SAMPLE, "--seed", "11", "-c", "25",
                    "--json"))
                    .exits(0).omits("typical");

            var forecast = tree(call.out()).path("forecast");
            assertTrue(contains(forecast.path("cost").path("USD"), costOfRest(tokens)), forecast::toString);
            var later = forecast(); // from times in milliseconds, as in the log
            assertEquals(forecast.path("cost"), later.path("cost"));
            double seconds = later.at("/seconds/mean").asDouble();
            assertEquals(forecast.at("/seconds/mean").asDouble(), seconds, 0.02 * seconds);
            double limit = Double.parseDouble(call.next().replaceFirst(".* --max-cost (\\S+).*", "$1"));
            double most = forecast.at("/cost/USD/high").asDouble() + tree(call.out()).at("/cost/USD").asDouble();
            assertTrue(most <= limit && limit <= most * 1.1, call.next() + " for " + most);
        }

        @Test
        void underestimatesTheRemainingCostIfMadeFromTheFirstRows() throws IOException {
            var dify = new Simulated("--latency", "20ms");
            var tokens = sortedTexts();

            var call = call(dify.settings(), typed("run", "--limit", "" + SAMPLE, "--mode", "streaming", "-c", "25",
                    "--json")).omits("--max-cost");

            var cost = tree(call.out()).at("/forecast/cost/USD");
            assertTrue(cost.path("high").asDouble() < costOfRest(tokens), cost::toString);
            assertTrue(call.notes().toString().contains("--sample"), call.err());
        }

        @Test
        void theRunAfterASampleDoesNotRunSampledRowsAgain() throws IOException {
            var dify = new Simulated("--latency", "20ms");
            rows(120);

            call(dify.settings(), typed("run", "--sample", "30", "-c", "10")).exits(0);
            assertEquals(30, dify.count("started"));
            call(dify.settings(), typed("run", "-c", "20")).exits(0);

            assertEquals("succeeded=120", status());
            assertEquals(120, dify.count("started"));
            assertEquals(0, dify.count("twice"));
            assertTrue(forecast().isNull());
        }

        @Test
        void estimatesTokensInsteadOfCostForAChatflow() throws IOException {
            var dify = new Simulated("--latency", "20ms", "--app", "chatflow", "--columns", "id");
            rows(30);
            Files.writeString(file("data.csv"), content("data.csv").replace("id,text", "id,query"));

            var call = call(dify.settings(), typed("run", "--sample", "10", "--json")).exits(0);

            var forecast = tree(call.out()).path("forecast");
            assertTrue(forecast.at("/tokens/low").asDouble() > 0, call.out());
            assertTrue(forecast.path("cost").isEmpty(), "models without prices");
        }
    }

    @Nested
    class ASample {
        private final Simulated dify = new Simulated("--dify", "1.16.1", "--latency", "10ms");

        @Test
        void containsTheSameRowsForTheSameSeed() throws IOException {
            rows(40);
            var seed = dify.run("--sample", "10").exits(0).err().replaceFirst("(?s).*--seed (\\d+).*", "$1");
            var chosen = ids();

            assertEquals(10, chosen.size());
            dify.run("--fresh", "--sample", "10", "--seed", seed).exits(0);
            assertEquals(chosen, ids());
            dify.run("--fresh", "--sample", "10", "--seed", seed + "1").exits(0);
            assertNotEquals(chosen, ids());
        }

        @Test
        void containsOnlyRowsWithoutAnOutcome() throws IOException {
            rows(12);
            replace("data.csv", "2,text 2", "2,[refuse]");
            dify.run("--limit", "4").exits(3);

            dify.run("--sample", "5").exits(0);
            assertEquals(3 + 5, dify.runs());
            assertEquals("succeeded=8 failed=1 pending=3", status());
            dify.run("--sample", "100").exits(0);
            assertEquals(3 + 8, dify.runs());
        }

        @Test
        void runsInStreamingModeUnlessAnotherModeIsGiven() throws IOException {
            rows(20);

            dify.run("--sample", "6").exits(0);
            assertEquals(Set.of("streaming"), modes());
            dify.run("--sample", "6", "--mode", "blocking").exits(0);
            assertEquals(Set.of("streaming", "blocking"), modes());
        }

        private Set<String> modes() throws IOException {
            return events("attempt").stream().map(line -> line.path("mode").asText()).collect(Collectors.toSet());
        }

        @ParameterizedTest
        @CsvSource(delimiter = '|', textBlock = """
                run   | --sample 5 --limit 5 | --sample
                run   | --seed 5             | --sample
                run   | --sample 0           | --sample
                run   | --sample x           | --sample
                retry | --sample 5           | --sample
                """)
        void isRejectedIfInvalidOrUsedWithRetryOrALimit(String command, String options, String named)
                throws IOException {
            rows(5);
            var requests = new AtomicInteger();
            var url = serve(_ -> requests.incrementAndGet());

            call(settingsFor(url), typed(command, options.split(" "))).exits(2).says(named).hints();

            assertEquals(0, requests.get());
        }

        @Test
        void canBeTakenFromAShardOrFromListedIds() throws IOException {
            rows(60);
            dify.run("--sample", "6", "--shard", "1/2").exits(0);

            var ours = read("results.1-of-2.jsonl").stream().map(line -> line.path("id").asText()).toList();
            assertEquals(6, ours.size());
            assertTrue(ours.stream().allMatch(new Shard(1, 2)::holds), ours::toString);

            var named = List.of("3", "5", "7", "9");
            call(dify.settings(), "run", "-i", input(), "-o", path("named.jsonl"), "--progress", "off",
                    "--sample", "3", "--ids", String.join(",", named)).exits(0);
            ours = read("named.jsonl").stream().map(line -> line.path("id").asText()).toList();
            assertEquals(3, ours.size());
            assertTrue(named.containsAll(ours), ours::toString);
        }

        @Test
        void canBeTakenFromJsonLinesOrAWorkbook() throws IOException {
            rows(30);
            dify.run("--limit", "1").exits(0);

            ofBatch("export", path("in.xlsx"));
            Files.writeString(file("in.jsonl"), IntStream.rangeClosed(1, 30).mapToObj(id ->
                    json("{'id':'%d','text':'text'}\n", id)).collect(Collectors.joining()));

            for (var name : List.of("in.xlsx", "in.jsonl")) {
                call(dify.settings(), "run", "-i", path(name), "-o", path(name + ".out"), "--sample", "7",
                        "--allow-unmapped", "--progress", "off").exits(0).says("Remaining 23 rows: ");

                assertEquals(7, read(name + ".out").size());
            }
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                options                     | limit
                --sample 6                  | --max-cost 0.00054
                --sample 6 --mode streaming | --max-cost 0.00054
                --sample 6 --max-cost 7     | --max-cost 7
                --limit 1 --max-cost 5      | --max-cost 5
                """)
        void isFollowedByASuggestedLimitForTheRemainingRows(String options, String limit) throws IOException {
            rows(20);

            assertEquals(limit, limit(dify.run(options.split(" "))));
        }

        /// After three or nine rows, with and without a range.
        @ParameterizedTest
        @ValueSource(strings = {"--max-cost 0.000081", "--max-cost 0.00025", "--max-tokens 20", "--max-tokens 60"})
        void isFollowedByACommandThatRunsAllRowsIfALimitWasReached(String option) throws IOException {
            rows(20);
            var name = option.split(" ")[0];

            var stopped = dify.line("run -c 1 " + option).exits(4);

            var next = stopped.next();
            assertTrue(next.contains(" " + name + " "), next);
            assertEquals(limit(stopped), limit(ofBatch("status").exits(3)));
            call(dify.settings(), split(next)).exits(0).omits("no " + name + " now");
            assertEquals(20, dify.runs());
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                before,                             after,            missing
                --max-cost 0.00025,                 '',               --max-cost
                --max-cost 0.00025,                 --mode blocking,  --max-cost
                --max-tokens 60,                    --max-cost 1,     --max-tokens
                --max-cost 0.00025,                 --max-cost 1,     ''
                """)
        void isReportedAsMissingIfOnlyTheLastSessionHadALimit(String before, String after, String missing)
                throws IOException {
            rows(20);
            dify.line("run -c 1 " + before).exits(4);

            var notes = dify.line("run " + after).exits(0).notes().stream().filter(note ->
                    note.contains("last session had")).toList();

            assertEquals(missing.isEmpty() ? 0 : 1, notes.size(), notes::toString);
            assertTrue(missing.isEmpty() || notes.getFirst().contains(before), notes::toString);
            assertTrue(dify.line("run").notes().stream().noneMatch(note -> note.contains(before)));
        }

        @Test
        void isFollowedByNoSuggestedCostLimitIfPricesAreUnknown() throws IOException {
            rows(20);

            assertEquals("none", limit(dify.run("--sample", "6", "--mode", "blocking").exits(0)));
        }

        /// Returns the limits in the suggested next command.
        private static String limit(Call call) {
            var limits = Pattern.compile("--max-\\w+ \\S+").matcher(call.next()).results().map(MatchResult::group);
            return limits.reduce((first, second) -> first + " " + second).orElse("none");
        }
    }

    @Nested
    class TheForecastRange {
        @Test
        void isOmittedForFewerThanFiveFinishedRows() throws IOException {
            rows(100);
            new Finished(5).rows(4, 25, 0.01).save();

            ofBatch("status").shows("  remaining      96 rows: 24 s, 2,400 tokens, 0.96 USD (");
            assertEquals(tree(json("{'rows':96,'seconds':{'low':null,'mean':24,'high':null},'tokens':{'low':null,"
                    + "'mean':2400,'high':null},'cost':{'USD':{'low':null,'mean':0.96,'high':null}}}")), forecast());
        }

        @Test
        void isRoundedToTwoSignificantDigits() throws IOException {
            rows(9_000);
            var batch = new Finished(5);
            for (int id = 1; id <= 20; id++)
                batch.row("" + id, 1000 + 100 * id, 0.1 + 0.003 * id, "USD", id % 2 == 0 ? 1.5 : 2.5);
            batch.save();

            var text = ofBatch("status").out();

            assertTrue(text.matches("(?s).*  remaining +8,980 rows: likely \\d\\d min \\d+ s to \\d\\d min \\d+ s, "
                    + "1\\d,000,000 to 2\\d,000,000 tokens, 1,[12]00 to 1,[23]00 USD\n.*"), text);
        }

        @Test
        void isBasedOnAllAttemptsOfEachRow() throws IOException {
            rows(40);
            var batch = new Finished(5).rows(2, 10, 0.01);
            batch.past.attempt("3").end("3", "failed", "tokens", 40, "price", 0.07, "currency", "USD");
            batch.save();

            var forecast = forecast();

            assertEquals(37, forecast.path("rows").asInt());
            assertEquals(37 * 20, forecast.path("tokens").path("mean").asDouble(), 0.01);
            assertEquals(37 * 0.03, forecast.path("cost").path("USD").path("mean").asDouble(), 1e-4);
        }

        @Test
        void isSeparateForEachCurrency() throws IOException {
            rows(100);
            var batch = new Finished(5);
            for (int id = 1; id <= 20; id++) batch.row("" + id, 10, 0.5, id % 2 == 0 ? "USD" : "RMB", 1);
            batch.save();

            var cost = forecast().path("cost");

            assertEquals("RMB USD", keys(cost));
            for (var currency : cost) assertTrue(contains(currency, 80 * 0.25), cost::toString);
            var shown = ofBatch("status").out();
            assertTrue(shown.matches("(?s).* [\\d.]+ to [\\d.]+ RMB, [\\d.]+ to [\\d.]+ USD\n.*"), shown);
        }

        @Test
        void comesWithAHintAtStreamingModeIfNoPriceIsKnown() throws IOException {
            rows(100);
            new Finished(5).rows(20, 10, null).save();

            assertEquals("", keys(forecast().path("cost")));
            assertEquals(800, forecast().at("/tokens/low").asDouble(), 0.01);
            ofBatch("status").omits("USD");
        }

        /// A run without a price was not free.
        @Test
        void excludesRunsWithTokensButNoPriceFromTheCost() throws IOException {
            rows(100);
            var batch = new Finished(5).rows(10, 10, null);
            for (int id = 11; id <= 20; id++) batch.row("" + id, 10, 0.5);
            batch.row("21", 0, null).save(); // no model was asked

            var cost = forecast().at("/cost/USD");

            assertEquals(79 * 0.5 * 10 / 11, cost.path("mean").asDouble(), 0.001);
            ofBatch("status").shows(" 10 runs without a price (estimated total: 10 USD)\n");
        }

        /// Four rows cost 1 and one costs 6, so the mean is 2 and the deviation √5.
        @Test
        void isWiderForAFewRowsThanForManyAndNeverNegative() throws IOException {
            rows(9);
            var batch = new Finished(5).rows(4, 1, null);
            batch.row("5", 6, null).save();

            var tokens = forecast().path("tokens");

            assertEquals(8, tokens.path("mean").asDouble());
            assertEquals(0, tokens.path("low").asDouble());
            assertEquals(8 + 1.645 * Math.sqrt(5) * Math.sqrt(4 + 16.0 / 5), tokens.path("high").asDouble(), 1e-4);
        }

        /// A retry of two rows does not show how many run at a time.
        @Test
        void takesTheRowsAtATimeFromTheLastSessionUnlessItWasShort() throws IOException {
            rows(100);
            var batch = new Finished(1).rows(10, 10, null);
            batch.session(100, 5);
            for (int id = 11; id <= 20; id++) batch.row("" + id, 10, null);
            batch.save();
            assertEquals(80 / 5.0, forecast().at("/seconds/mean").asDouble(), 0.01);

            batch.session(200, 1);
            batch.row("21", 10, null).save();

            assertEquals(79 * 13 / 21.0, forecast().at("/seconds/mean").asDouble(), 0.01);
        }

        @ParameterizedTest
        @ValueSource(ints = {1, 5, 20})
        void accountsForConcurrencyInTheRemainingTime(int concurrency) throws IOException {
            rows(1_020);
            new Finished(concurrency).rows(20, 10, null).save();

            assertEquals(1_000.0 / concurrency, forecast().at("/seconds/mean").asDouble(), 0.01);
            ofBatch("status").shows(" 1,000 rows: " + Text.seconds(1_000.0 / concurrency) + ", ");
        }
    }
}
