package difyexec;

import org.junit.jupiter.api.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static com.github.tomakehurst.wiremock.client.WireMock.*;
import static difyexec.DifyExec.*;
import static difyexec.Given.tree;
import static org.junit.jupiter.api.Assertions.*;

/// `--require`: which outputs count, and what happens to rows whose outputs do not.
final class RequireTest extends WholeCommand {
    @Nested
    class ARequirement {
        private static final String OUTPUTS = """
                {'answer':'yes','blank':' \\n\u3000','spaces':'\u00a0\u200b\ufeff','none':null,'items':[],'map':{},'score':2.5,'count':2.0,'big':7,
                'ok':false,'list':['',1],'json':'[{}]','text':'12','broken':'{a','deep':{'list':[{'x':0}]}}""";

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                requirement,     fault
                /answer,
                /ok,
                /score:number,
                /big:integer,
                /count:integer,
                /ok:boolean,
                /list:list,
                /deep:object,
                /json:json,
                /text:json,
                /deep/list/0/x,
                /blank,          output /blank is missing or empty
                /spaces,         output /spaces is missing or empty
                /none,           output /none is missing or empty
                /items:list,     output /items is missing or empty
                /map:object,     output /map is missing or empty
                /other:number,   output /other is missing or empty
                /deep/list/1,    output /deep/list/1 is missing or empty
                /text:number,    'output /text is of type string, not number'
                /score:integer,  'output /score is of type number, not integer'
                /answer:boolean, 'output /answer is of type string, not boolean'
                /deep:list,      'output /deep is of type object, not list'
                /list:object,    'output /list is of type array, not object'
                /broken:json,    'output /broken is of type string, not json'
                /score:json,     'output /score is of type number, not json'
                """)
        void rejectsOutputsThatAreMissingEmptyOrOfAnotherType(String requirement, String fault) throws IOException {
            assertEquals(Optional.ofNullable(fault), Requirement.parse(requirement).fault(tree(Given.json(OUTPUTS))));
        }

        @ParameterizedTest
        @ValueSource(strings = {"answer", "/answer:text", "/score:Number", " /answer", "#"})
        void isAPointerWithAKnownType(String requirement) throws IOException {
            csv("id", "1");

            call(Map.of("DIFY_API_KEY", KEY), typed("run", "--require", requirement)).exits(2)
                    .reports("--require", "/score:number");

            assertEquals(Set.of("data.csv"), names());
        }

        /// A row that was paid for is sent again only by a command that says so.
        @Test
        void leavesItsFailedRowsToRetry() throws IOException {
            rows(2);
            call(Map.of(), typed("run", "--demo", "--require", "/nosuch")).exits(3);

            var all = call(Map.of(), typed("run", "--demo")).exits(3);

            assertTrue(all.err().lines().anyMatch(line -> line.startsWith("Nothing to do") && line.contains("'retry'")),
                    all::toString);
        }

        @Test
        void isNotCheckedByCheck() throws IOException {
            rows(2);

            new Simulated().check("--require", "/answer").exits(0).says("--require");
            new Simulated().check("--require", "answer").exits(2).reports("--require answer");
        }
    }

    @Nested
    class ARowThatFailsARequirement extends Story.Sessions {
        static final List<Story> STORIES = Story.of("""
                a success without the output fails, and run does not send it again
                  given   rows a b c, require /answer
                  answers b: succeeded run-b {"answer":""}
                  then    results a c, b failed, retry b, came {"answer":""}, ended run-b, allDone false
                  then    sent none

                only retry sends it
                  given   rows a b, require /score:number
                  answers a: succeeded run-a {"score":1}; b: succeeded run-b {"score":"1"}, succeeded run-c {"score":2}
                  then    results a, b failed
                  given   listed
                  then    sent b, b failed succeeded, retry none

                an empty object is recorded, too
                  given   require /answer
                  answers a: partial run-a {}
                  then    a failed, came {}
                  then    sent none

                an id that is typed is sent
                  given   require /answer
                  answers a: succeeded run-a {}, succeeded run-b
                  then    a failed
                  given   named a
                  then    sent a, runs run-b

                the row is not sent again without the requirement either
                  given   require /answer
                  answers a: succeeded run-a {}
                  then    a failed
                  given   require, pending
                  then    sent none

                a retry that failed for another reason is an ordinary failure
                  given   require /answer, backoff 1 60 0
                  answers a: succeeded run-a {}, failed no
                  then    a failed
                  given   listed
                  then    sent a, a failed failed
                  given   pending
                  then    sent a, runs run-a

                a retry that was interrupted is continued by run
                  given   require /answer
                  answers a: succeeded run-a {}
                  then    a failed
                  answers a: dies
                  given   listed
                  then    dies
                  given   pending
                  finds   succeeded run-b
                  then    looked 1, sent none, runs run-b

                a run that is found after a crash is judged, too
                  given   require /answer
                  answers a: dies
                  then    dies
                  finds   succeeded run-a {"answer":null}
                  then    looked 1, sent none, a failed, came {"answer":null}, retry a
                  then    looked 0, sent none

                a run that was unknown is judged, too
                  given   require /answer
                  answers a: unreadable run-a
                  then    a unknown
                  finds   succeeded run-a {"answer":[]}
                  then    a unknown failed, came {"answer":[]}
                  then    looked 0, sent none

                a run that waited for a person is judged, too
                  given   require /answer
                  answers a: paused run-a
                  then    a paused
                  finds   succeeded run-a {}
                  then    a paused failed
                  then    looked 0, sent none

                a run that appears before the row is sent again is judged, too
                  given   require /answer
                  answers a: cut, failed Rate Limit Error
                  finds   UNCONFIRMED: failed Rate Limit Error; RESEND: absent, succeeded run-7 {}
                  then    sent a a, late run-7, retry a, came {}
                  then    sent none

                a run that appears late is judged, too
                  given   require /answer
                  answers a: cut, failed no
                  finds   LATE: succeeded run-7 {}; else: absent
                  then    sent a a, late run-7, retry a, came {}
                  then    sent none

                a run that appears late does not hide the unknown one
                  given   require /answer
                  answers a: cut, unreadable run-8
                  finds   LATE: succeeded run-7 {}; else: absent
                  then    sent a a, late run-7, a not_started unknown
                  finds   succeeded run-8
                  then    sent none, runs run-8
                """);
    }

    @Nested
    class AMisspeltPointer extends Story.Sessions {
        private static String rows(int count) {
            return IntStream.rangeClosed(1, count).mapToObj(String::valueOf).collect(Collectors.joining(" "));
        }

        static final List<Story> STORIES = Story.of("""
                the batch stops after twenty successes without a value
                  given   rows 50, slots 1, require /answer /anwser
                  then    stop STOPPED, hint answer, done 20

                other failures do not hide it
                  given   rows 50, slots 1, require /anwser
                  answers 3: failed no; 5: failed no
                  then    stop STOPPED, hint /anwser, done 22

                a repeated session tries one more row
                  given   rows 50, slots 1, require /anwser
                  then    stop STOPPED, done 20
                  given   pending
                  then    stop STOPPED, sent 21

                an interrupted batch keeps its count
                  given   rows 50, slots 1, require /anwser, limit 15
                  then    done 15
                  given   pending
                  then    stop STOPPED, done 5

                a corrected pointer starts from zero
                  given   rows 50, slots 1, require /anwser
                  then    stop STOPPED, done 20
                  given   pending, require /answer
                  then    done 30, allDone true

                a corrected workflow continues
                  given   rows 50, slots 1, require /score
                  then    stop STOPPED, done 20
                  answers each: succeeded own {"score":1}
                  given   listed
                  then    done 20, allDone true

                a value in one success is enough
                  given   rows 50, slots 1, require /answer
                  answers 9: succeeded own; each: succeeded own {}
                  then    done 50, results 9

                one value of the right type is enough
                  given   rows 50, slots 1, require /answer:number
                  answers 9: succeeded own {"answer":1}
                  then    done 50, results 9

                a success of an earlier session counts, too
                  given   rows 50, slots 1, require /answer, limit 1
                  then    done 1
                  answers each: succeeded own {}
                  given   pending
                  then    done 49

                results from before do not count
                  given   rows 50, slots 1, limit 9
                  then    done 9
                  given   pending, require /anwser
                  then    stop STOPPED, done 20
                """.replace("rows 50", "rows " + rows(50)));
    }

    @Nested
    class ABatchWithRequirements {
        private Simulated dify;

        @BeforeEach
        void twoOfFourRowsAreWrong() throws IOException {
            dify = new Simulated("--latency", "10ms", "--output-score");
            csv("id,text", "1,a", "2,[empty-output!]", "3,[wrong-output!]", "4,d");
        }

        private Call run() throws IOException {
            return dify.run("--require", "/answer", "--require", "/score:number");
        }

        @Test
        void countsAndNamesTheCauses() throws IOException {
            var call = run().exits(3).says("output /answer is missing or empty (2)",
                    "output /score is of type string, not number (3)");

            assertEquals(1, call.notes().size());
            assertTrue(call.notes().getFirst().contains("2 rows") && call.notes().getFirst().contains("pay"));

            assertEquals(Set.of("1", "4"), Set.copyOf(ids()));
            assertEquals(List.of("2", "3"), Files.readAllLines(file("results.jsonl.retry")));
            assertEquals("succeeded=2 failed=2", status());
            assertEquals(16 + 21 + 21 + 16, statusJson().path("total_tokens").asInt());
            assertEquals(List.of("[\"2\"]", "[\"3\"]"), statusJson().path("errors").valueStream()
                    .map(error -> error.path("ids").toString()).toList());
            ofBatch("status").says().shows("2 rows", "--require", "retry");
        }

        @Test
        void isRememberedUntilItIsDropped() throws IOException {
            run();
            dify.command("run").exits(3);
            assertEquals(4, dify.runs());

            dify.command("retry").exits(3).omits("--require /answer");
            assertEquals(6, dify.runs());
            assertEquals("succeeded=2 failed=2", status());

            dify.command("retry", "--require", "").exits(0);
            assertEquals("succeeded=4", status());
            assertEquals(List.of("[\"/answer\",\"/score:number\"]", "[\"/answer\",\"/score:number\"]", "[\"\"]"),
                    events("session").stream().map(one -> one.path("require").toString()).toList());
        }

        @ParameterizedTest
        @CsvSource({"'',succeeded=4", "/answer,succeeded=3 failed=1"})
        void isReplacedEvenIfNoRowIsSent(String required, String afterwards) throws IOException {
            run();
            dify.command("run", "--require", required).exits(3);
            dify.command("run", "--require", required).exits(3);
            assertEquals(4, dify.runs());
            assertEquals(2, events("session").size(), "the same is recorded once");

            dify.command("retry");

            assertEquals(6, dify.runs());
            assertEquals(afterwards, status());
        }

        @Test
        void asksOnceForTheRunOfAnEmptyBlockingResponse() throws IOException {
            var blocking = new Dify("1.13.0", "blocking");
            for (var id : List.of("1", "2", "3", "4"))
                blocking.row(id, blocking.answer(200, Given.json("{'workflow_run_id':'run-%s','task_id':'t','data':"
                        + "{'id':'run-%s','workflow_id':'w','status':'succeeded','outputs':{'answer':'%s'}}}", id, id,
                        id.equals("4") ? "given" : "")));
            blocking.server.stubFor(get(urlEqualTo("/v1/workflows/run/run-1")).willReturn(blocking.answer(200, Given.json(
                    "{'id':'run-1','workflow_id':'w','status':'succeeded','outputs':{'answer':'stored'},"
                            + "'total_tokens':7,'total_steps':2,'elapsed_time':1,'created_at':1,'finished_at':2}"))));
            blocking.server.stubFor(get(urlEqualTo("/v1/workflows/run/run-2")).willReturn(blocking.answer(200, Given.json(
                    "{'id':'run-2','workflow_id':'w','status':'succeeded','outputs':{'answer':''},"
                            + "'total_tokens':7,'total_steps':2,'elapsed_time':1,'created_at':1,'finished_at':2}"))));

            blocking.run("--require", "/answer").exits(3).says("output /answer is missing or empty (2, 3)");

            assertEquals("stored", result("1").at("/outputs/answer").asText());
            blocking.server.verify(3, getRequestedFor(urlPathMatching("/v1/workflows/run/.*")));
        }

        @Test
        void showsTheOutputsThatCameInstead() throws IOException {
            run();

            inShell(dify.settings(), "show 3").mentions("failed", "\"score\" : \"about 15\"");
            ofBatch("status", "--html", path("report.html"));
            assertTrue(content("report.html").contains("\"score\":\"about 15\""));
            ofBatch("export", "-i", input(), path("back.csv"));
            assertFalse(content("back.csv").contains("about"));
        }
    }

    @Nested
    class ADifyWithWrongOutputs {
        private static final String[] OPTIONS = {"--dify", "1.16.0", "--latency", "10ms", "--output-score",
                "--empty-output", "10%", "--no-output", "5%", "--wrong-output", "5%"};

        /// The ids of the rows that have this fault at this start.
        private static Set<String> ids(Collection<String> all, int start, Simulator.Fault... faults) {
            var behaviour = Simulator.of(OPTIONS).behaviour();
            return all.stream().filter(id -> List.of(faults).contains(behaviour.fate(id, start, Map.of()).fault()))
                    .collect(Collectors.toCollection(TreeSet::new));
        }

        private Set<String> failed(String cause) throws IOException {
            return events("end").stream().filter(end -> end.path("error").asText().equals(cause))
                    .map(end -> end.path("id").asText()).collect(Collectors.toCollection(TreeSet::new));
        }

        @ParameterizedTest
        @ValueSource(strings = {"blocking", "streaming"})
        void failsExactlyTheseRowsAndSendsThemOnlyWhenAsked(String mode) throws IOException {
            var dify = new Simulated(OPTIONS);
            var all = IntStream.range(100, 300).mapToObj(String::valueOf).toList();
            csv(words(List.of("id,text"), all.stream().map(id -> id + ",row " + id).toArray(String[]::new)));
            var wrong = ids(all, 1, Simulator.Fault.EMPTY_OUTPUT, Simulator.Fault.NO_OUTPUT,
                    Simulator.Fault.WRONG_OUTPUT);

            call(dify.settings(), typed("run", "-c", "8", "--mode", mode, "--require", "/answer", "--require",
                    "/score:number")).exits(3);

            assertEquals(ids(all, 1, Simulator.Fault.EMPTY_OUTPUT), failed("output /answer is missing or empty"));
            assertEquals(ids(all, 1, Simulator.Fault.NO_OUTPUT), failed("output /score is missing or empty"));
            assertEquals(ids(all, 1, Simulator.Fault.WRONG_OUTPUT), failed("output /score is of type string, not number"));
            assertEquals(200 - wrong.size(), results().size());
            assertEquals(wrong, new TreeSet<>(Files.readAllLines(file("results.jsonl.retry"))));

            call(dify.settings(), typed("run", "--mode", mode)).exits(3);
            assertEquals(200, dify.count("started"));

            var again = ids(wrong, 2, Simulator.Fault.EMPTY_OUTPUT, Simulator.Fault.NO_OUTPUT,
                    Simulator.Fault.WRONG_OUTPUT);
            call(dify.settings(), typed("retry", "--mode", mode)).exits(again.isEmpty() ? 0 : 3);
            assertEquals(wrong, new TreeSet<>(attempts(2)));
            assertEquals(200 + wrong.size(), dify.count("started"));
            assertEquals(200 - again.size(), results().size());
            long tokens = results().getFirst().path("total_tokens").asLong();
            assertEquals(tokens * (200 + wrong.size()), statusJson().path("total_tokens").asLong());
            if (mode.equals("streaming")) assertEquals(0, results().getFirst().path("total_price").decimalValue()
                    .multiply(BigDecimal.valueOf(200 + wrong.size()))
                    .compareTo(statusJson().path("cost").path("USD").decimalValue()));
            call(dify.settings(), "verify", "-o", output(), "--json").exits(0).omits("paid_twice", "lost");
        }
    }

    @Test
    void verifyAndCompareCountTheRowAsFailed() throws IOException {
        var dify = new Simulated("--latency", "20ms");
        csv("id,text", "1,one", "2,two");
        call(dify.settings(), typed("run", "--mode", "blocking")).exits(0);
        var good = path("good.jsonl");
        Files.move(file("results.jsonl"), Path.of(good));
        Files.move(file("results.jsonl.log"), file("good.jsonl.log"));
        call(dify.settings(), typed("run", "--mode", "blocking", "--require", "/other")).exits(3);

        call(dify.settings(), "verify", "-o", output(), "--json").exits(0).shows("\"failed\":[{");
        call(Map.of(), "compare", "--json", good, output()).exits(3).shows("\"failed_second\":2");

        call(dify.settings(), typed("retry", "--mode", "blocking", "--require", "")).exits(0);
        call(dify.settings(), "verify", "-o", output(), "--json").exits(0).omits("paid_twice", "lost");
    }
}
