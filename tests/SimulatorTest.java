package difyexec;

import difyexec.SimulatedRoute.Breakage;
import org.junit.jupiter.api.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.EnumSource;
import org.junit.jupiter.params.provider.ValueSource;

import module java.base;
import module java.net.http;

import static java.nio.charset.StandardCharsets.UTF_8;
import static org.junit.jupiter.api.Assertions.*;

/// What the simulator does beyond the recordings: routes that are broken forever, workers that reserve jobs, and a door
/// where requests wait. Other tests and the benchmarks rely on it.
final class SimulatorTest {
    /// A response as far as it came, and what ended it.
    record Seen(int status, Map<String, List<String>> headers, String body, Optional<IOException> problem) {
        boolean isJson() {
            try {
                return Given.JSON.readTree(body).isObject();
            } catch (IOException _) {
                return false;
            }
        }
    }

    private abstract static class WithServer {
        SimulatedDify dify;
        SimulatedServer server;
        private final HttpClient http = HttpClient.newHttpClient();

        void start(int places, String... options) throws IOException {
            dify = SimulatedDify.of(options);
            server = SimulatedServer.start(0, places, dify);
        }

        @AfterEach
        void close() throws IOException {
            if (server != null) server.close();
            http.shutdownNow();
        }

        HttpRequest.Builder request(String path) {
            return HttpRequest.newBuilder(URI.create(server.baseUrl().toString().replace("/v1", "") + path))
                    .version(HttpClient.Version.HTTP_1_1).header("Authorization", "Bearer app-test")
                    .header("Content-Type", "application/json");
        }

        HttpRequest.Builder run(String id, String text, String mode) {
            return request("/v1/workflows/run").POST(HttpRequest.BodyPublishers.ofString(body(id, text, mode)));
        }

        private static String body(String id, String text, String mode) {
            return Given.json("{'inputs':{'id':'%s','text':'%s'},'response_mode':'%s','user':'user-%s'}",
                    id, text, mode, id);
        }

        /// A blocking request as it is on the wire.
        static byte[] whole(String id, String text) {
            var body = body(id, text, "blocking");
            return ("POST /v1/workflows/run HTTP/1.1\r\nHost: x\r\nAuthorization: Bearer app-test\r\nContent-Type: "
                    + "application/json\r\nContent-Length: " + body.length() + "\r\n\r\n" + body).getBytes(UTF_8);
        }

        HttpResponse<InputStream> open(HttpRequest.Builder request) throws IOException, InterruptedException {
            return http.send(request.build(), HttpResponse.BodyHandlers.ofInputStream());
        }

        Seen see(HttpRequest.Builder request) throws InterruptedException {
            var body = new ByteArrayOutputStream();
            HttpResponse<InputStream> response = null;
            var problem = Optional.<IOException>empty();
            try {
                response = open(request);
                response.body().transferTo(body);
            } catch (IOException broken) {
                problem = Optional.of(broken);
            }
            return new Seen(response == null ? 0 : response.statusCode(),
                    response == null ? Map.of() : response.headers().map(), body.toString(UTF_8), problem);
        }
    }

    @Nested
    class ABrokenRoute extends WithServer {
        private static final String LIST = "/v1/workflows/logs?page=2&limit=1&created_by_end_user_session_id=user-a";

        @BeforeEach
        void start() throws Exception {
            start(0, "--latency", "1ms", "--speed", "100", "--dify", "1.16.1");
            for (var text : List.of("first", "second")) see(run("a", text, "blocking"));
        }

        @ParameterizedTest
        @EnumSource
        void isTheOnlyOne(Breakage breakage) throws Exception {
            dify.breakRoute(SimulatedRoute.LIST, breakage, 0);

            var list = breakage.takesForever() ? new Seen(0, Map.of(), "", Optional.empty())
                    : see(request(LIST).timeout(Duration.ofSeconds(5)));

            assertTrue(see(request("/v1/info")).isJson());
            switch (breakage) {
                case CUT_BEFORE -> assertEquals(0, list.status());
                case CUT_WITHIN -> assertTrue(list.status() == 200 && list.problem().isPresent(), list::toString);
                case NO_RESPONSE -> assertThrows(HttpTimeoutException.class, () -> open(request(LIST)
                        .timeout(Duration.ofMillis(200))));
                case PINGS -> assertEquals("   ", new String(open(request(LIST)).body().readNBytes(3), UTF_8));
                case HALF_JSON -> assertTrue(list.status() == 200 && !list.isJson() && list.problem().isEmpty()
                        && list.body().startsWith("{"), list::toString);
                case NUMBER -> assertTrue(list.body().contains("\"total\":" + Breakage.HUGE), list::toString);
                case HTML -> assertTrue(list.status() == 200
                        && list.headers().get("content-type").getFirst().startsWith("text/html"), list::toString);
                case EMPTY -> assertEquals("", list.body());
                case REPEATED_PAGE -> assertTrue(list.body().contains("\"page\":1,")
                        && list.body().contains("\"has_more\":true"), list::toString);
                case REDIRECT -> assertTrue(list.status() == 307 && list.headers().get("location").getFirst()
                        .equals(LIST), list::toString);
            }
        }

        @ParameterizedTest
        @EnumSource(names = {"CUT_WITHIN", "PINGS", "HALF_JSON", "NUMBER", "EMPTY", "HTML"})
        void breaksAStream(Breakage breakage) throws Exception {
            dify.breakRoute(SimulatedRoute.RUN, breakage, 0);

            var stream = breakage == Breakage.PINGS ? new Seen(200, Map.of(), new String(
                    open(run("b", "x", "streaming")).body().readNBytes(26), UTF_8), Optional.empty())
                    : see(run("b", "x", "streaming"));

            assertEquals(3, dify.count("started"));
            var events = stream.body().lines().filter(line -> line.startsWith("data: "))
                    .map(line -> new Seen(200, Map.of(), line.substring(6), Optional.empty())).toList();
            switch (breakage) {
                case CUT_WITHIN -> assertTrue(events.size() == 3 && events.getFirst().isJson()
                        && stream.problem().isPresent(), stream::toString);
                case PINGS -> assertEquals("event: ping\n\nevent: ping\n\n", stream.body());
                case HALF_JSON -> assertTrue(events.size() > 5 && events.stream().noneMatch(Seen::isJson),
                        stream::toString);
                case NUMBER -> assertTrue(events.size() > 5 && events.stream().allMatch(event -> event.body()
                        .contains(":" + Breakage.HUGE)), stream::toString);
                default -> assertTrue(events.isEmpty(), stream::toString);
            }
        }

        @Test
        void breaksAfterANumberOfRunsAndIsRepaired() throws Exception {
            dify.breakRoute(SimulatedRoute.INFO, Breakage.EMPTY, 3);

            assertTrue(see(request("/v1/info")).isJson());
            see(run("c", "x", "blocking"));
            assertFalse(see(request("/v1/info")).isJson());
            dify.repairRoutes();
            assertTrue(see(request("/v1/info")).isJson());
            assertEquals(1, dify.brokenResponses());
        }

        @Test
        void startsNothingIfItRedirects() throws Exception {
            dify.breakRoute(SimulatedRoute.RUN, Breakage.REDIRECT, 0);

            see(run("d", "x", "streaming"));

            assertEquals(2, dify.count("started"));
        }

        @Test
        void mayBeThatOfAFileThatItServes() throws Exception {
            dify.outputFiles();

            var run = Given.JSON.readTree(see(run("e", "x", "blocking")).body());
            var link = run.at("/data/outputs/files/0/url").asText();
            assertEquals(run.at("/data/outputs/files/0/size").asInt(), see(request(link)).body().length());
            dify.breakRoute(SimulatedRoute.DOWNLOAD, Breakage.CUT_WITHIN, 0);
            assertTrue(see(request(link)).problem().isPresent());
        }
    }

    @Nested
    class Workers extends WithServer {
        /// The jobs that have begun, after four were submitted to two workers with one slot each.
        private static Set<Integer> begun(List<CompletableFuture<Runnable>> jobs) {
            return IntStream.range(0, jobs.size()).filter(job -> jobs.get(job).isDone()).boxed()
                    .collect(Collectors.toCollection(TreeSet::new));
        }

        @Test
        void reserveAJobForEachBusySlotEvenIfAnotherWorkerIsFree() {
            int waitedForTheBusyOne = 0;
            for (int seed = 0; seed < 100; seed++) {
                var workers = new SimulatedWorkers(2, 1, seed);
                var jobs = Stream.generate(workers::submit).limit(3).toList();

                assertTrue(jobs.getFirst().isDone());
                assertTrue(begun(jobs).size() <= 2);
                if (!begun(jobs).equals(Set.of(0, 2))) continue;
                waitedForTheBusyOne++;
                jobs.get(2).join().run(); // the free worker's job ends, and nothing else begins there
                assertFalse(jobs.get(1).isDone());
                jobs.get(0).join().run();
                assertTrue(jobs.get(1).isDone());
            }
            assertTrue(waitedForTheBusyOne > 20, waitedForTheBusyOne + " of 100");
        }

        @Test
        void reserveNoMoreThanThatAndTakeTurns() {
            var workers = new SimulatedWorkers(1, 2, 1);
            var jobs = Stream.generate(workers::submit).limit(6).toList();

            for (int ended = 0; ended < 6; ended++) {
                assertEquals(Math.min(6, ended + 2), begun(jobs).size());
                jobs.get(ended).join().run();
            }
        }

        @Test
        void doNotDelayBlockingRuns() throws Exception {
            start(0, "--dify", "1.16.1", "--workers", "1", "--latency", "1ms");
            var streams = new ArrayList<HttpResponse<InputStream>>();
            for (int id = 0; id < 3; id++) streams.add(open(run("s" + id, "[latency 60s]", "streaming")));

            assertTrue(see(run("b", "x", "blocking")).body().contains("succeeded"));
            for (var stream : streams) stream.body().close();
            assertEquals(4, dify.count("started"));
        }
    }

    @Nested
    class AFullDoor extends WithServer {
        @ParameterizedTest
        @ValueSource(strings = {"0", "300ms"})
        void letsARequestInWhoseClientHasLeft(String start) throws Exception {
            start(1, "--dify", "1.16.1", "--latency", "1ms", "--start", start);
            try (var client = HttpClient.newHttpClient()) {
                var first = client.sendAsync(run("a", "[latency 3s]", "blocking").build(),
                        HttpResponse.BodyHandlers.ofString());
                WholeCommand.until("the only place is taken", () -> dify.count("started") == 1);

                try (var leaving = new Socket(server.baseUrl().getHost(), server.baseUrl().getPort())) {
                    leaving.getOutputStream().write(whole("b", "x"));
                    WholeCommand.until("a request waits at the door", () -> server.waiting() == 1);
                }

                assertFalse(first.isDone());
                assertEquals(1, dify.count("started"));
                assertTrue(first.join().body().contains("succeeded"));
            } // an idle connection keeps its place, too
            WholeCommand.until("the request that waited has run", () -> dify.count("succeeded") == 2);
        }
    }
}
