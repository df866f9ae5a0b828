package difyexec;

import difyexec.DifyExec.LookUpRules.LookUpContext;
import difyexec.DifyExec.Release.Listing;
import difyexec.DifyExec.Response.Refused.Author;
import org.junit.jupiter.api.*;
import org.junit.jupiter.params.ParameterizedTest;
import org.junit.jupiter.params.provider.*;

import module java.base;

import static difyexec.DifyExec.*;
import static difyexec.DifyExec.Attempt.Tries;
import static difyexec.DifyExec.Judge.RetryRuns;
import static difyexec.DifyExec.Response.RunStatus;
import static difyexec.DifyExec.Usage.Spending;
import static difyexec.Given.*;
import static org.junit.jupiter.api.Assertions.*;

/// Decisions, as tables.
final class RulesTest {
    @Nested
    class ResponseJudge {
        private final Judge judge = new Judge(BACKOFF, RetryRuns.TRANSIENT, ACCESS, List.of());

        /// Responses of Dify itself, with or without a code. The message must contain the text of the last column. A
        /// code with a colon comes from something in front of Dify.
        @ParameterizedTest(name = "{0} {1} {2}: {3}")
        @CsvSource(delimiter = '|', quoteCharacter = '`', useHeadersInDisplayName = true, textBlock = """
                status | code                        | message                          | verdict   | says
                400    | invalid_param               | Too many requests. Please try ag | throttled | Too many
                429    | too_many_requests           | Too many requests. Please try ag | throttled | Too many
                429    | too_many_requests           | anything                         | throttled |
                503    | invalid_param               | Too many requests. Please try ag | throttled |
                429    | rate_limit_error            | Workflow execution quota limit r | stop      | quota
                429    | rate_limit_error            | Rate limit exceeded, please upgr | stop      | renewed
                400    | invalid_param               | Workflow not published           | stop      | publish
                400    | app_unavailable             | App unavailable, please check yo | stop      | publish
                400    | not_workflow_app            | Please check if your app mode ma | stop      | another kind of app
                400    | not_chat_app                | Please check if your app mode ma | stop      | another kind of app
                400    | invalid_param               | Arg user must be provided.       | stop      | update difyexec
                400    | invalid_param               | 1 validation error for WorkflowR | stop      | update difyexec
                400    |                             | Input payload validation failed  | stop      | update difyexec
                400    | invalid_param               | No class mapping found for node  | stop      | node
                400    | invalid_param               | queue listening stopped unexpect | look up   |
                400    | bad_request                 | Invalid workflow_id format: 'x'. | stop      | DIFY_WORKFLOW_ID
                400    | bad_request                 | Cannot use draft workflow versio | stop      | leave it out
                404    | not_found                   | Workflow not found with id: x    | stop      | DIFY_WORKFLOW_ID
                404    | not_found                   | Workflow not found with id: x. Y | stop      | leave it out
                400    | bad_request                 | The browser (or proxy) sent a re | stop      | request
                400    | provider_not_initialize     | No valid model provider credenti | stop      | model provider
                400    | model_currently_not_support | Dify Hosted OpenAI trial current | stop      | model provider
                400    | provider_quota_exceeded     | Your quota for Dify Hosted OpenA | stop      | credit
                400    | completion_request_error    | Completion request failed.       | again     |
                400    | bad_request                 | App ID is required when a resour | stop      | DIFY_APP_ID
                400    | invalid_param               | App ID is required when a resour | stop      | DIFY_APP_ID
                400    | completion_request_error    | App ID is required when a resour | again     |
                403    | forbidden                   | The token is not allowed to access this app. | stop | DIFY_APP_ID
                401    | unauthorized                | Access token is invalid          | stop      | DIFY_API_KEY
                401    | unauthorized                | Resource access token is invalid | stop      | DIFY_API_KEY
                401    | unauthorized                | Authorization header must be pro | stop      | DIFY_API_KEY
                403    | forbidden                   | The app's API service has been d | stop      | Access Point
                403    | forbidden                   | The workspace's status is archiv | stop      | owner
                403    | forbidden                   | The app no longer exists.        | stop      | no longer exists
                403    | workflow_version_execution_not_allowed | Not on this plan.     | stop      | DIFY_WORKFLOW_ID
                404    | not_found                   | The requested URL was not found  | stop      | DIFY_API_BASE_URL
                404    | not_found                   | The requested URL was not found  | stop      | Dify at http://dify.example/v1 responded with 404 (The requested URL
                404    | app_missing                 | The app is gone                  | stop      | Dify at http://dify.example/v1 responded with 404 (The app is gone)
                401    | unauthorized                | Tenant owner account not found o | stop      | Tenant owner
                403    | app_api_disabled            | The app's API is off             | stop      | API is off
                404    |                             | 404 Not Found                    | stop      | DIFY_API_BASE_URL
                405    | method_not_allowed          | The method is not allowed        | stop      | DIFY_API_BASE_URL
                415    | unsupported_media_type      | Did not attempt to load JSON dat | stop      | DIFY_API_BASE_URL
                413    | file_too_large              |                                  | failed    | too large
                413    | file_too_large              | File size exceeded. {message}    | failed    | File size
                500    | internal_server_error       | The server encountered an intern | look up   |
                500    | unknown                     | Internal Server Error            | look up   |
                400    | invalid_param               | name is required in input form   | failed    | is required
                400    | invalid_param               | (type 'text-input') x in input f | failed    | (type
                400    | invalid_param               | Reached maximum retries (3) for  | failed    |
                400    | invalid_param               |                                  | failed    | HTTP 400
                400    | something_new               | a text of a later version        | failed    | a text of a later
                418    |                             | I'm a teapot                     | failed    | HTTP 418
                408    |                             | Request Timeout                  | look up   |
                308    |                             | https://dify.example/v1/run      | stop      | https://dify.example/v1/run
                400    | gate:way                    | Workflow not published           | stop      |
                400    | gate:way                    | 1 validation error               | stop      |
                400    | bad_request:other           | no such city                     | failed    |
                403    | :denied                     | no                               | stop      |
                """)
        void classifiesAResponseOfDifyByStatusCodeAndMessage(int status, String code, String message,
                String verdict, String says) {
            var seen = judge.verdict(attempt(0, 0),
                    http(status, Objects.toString(code, ""), Objects.toString(message, "")));

            assertEquals(verdict, word(seen));
            assertTrue(textOf(seen).contains(Objects.toString(says, "")), textOf(seen));
        }

        /// Responses of something in front of Dify: a page, and no `X-Version`.
        @ParameterizedTest(name = "{0}: {1}")
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                status, verdict,   after a look-up, says
                301,    look up,   stop,            DIFY_API_BASE_URL
                302,    look up,   stop,            DIFY_API_BASE_URL
                308,    look up,   stop,            DIFY_API_BASE_URL
                400,    look up,   failed,          a page
                403,    look up,   failed,          a page
                404,    look up,   stop,            DIFY_API_BASE_URL
                405,    look up,   stop,            DIFY_API_BASE_URL
                407,    look up,   stop,            HTTPS_PROXY
                408,    look up,   again,           cut off
                409,    look up,   failed,          409
                413,    look up,   failed,          too large
                429,    throttled, again,           cut off
                500,    look up,   again,           cut off
                502,    look up,   again,           cut off
                503,    look up,   again,           cut off
                504,    look up,   again,           cut off
                520,    look up,   again,           cut off
                524,    look up,   again,           cut off
                """)
        void classifiesAResponseOfAProxyByItsStatus(int status, String verdict, String unstarted, String says) {
            assertEquals(verdict, word(judge.verdict(attempt(0, 0), html(status))));
            assertEquals("look up", word(judge.verdict(attempt(0, 0), late(status))));

            var seen = judge.judgeUnstarted(attempt(0, 0), html(status), "cut off");
            assertEquals(unstarted, word(seen));
            assertTrue(textOf(seen).contains(says), textOf(seen));
        }

        /// The `error` event of a stream. With a code, it counts like the same response; without one, its text decides.
        @ParameterizedTest(name = "{0} {1} {2}: {3}")
        @CsvSource(delimiter = '|', quoteCharacter = '`', useHeadersInDisplayName = true, textBlock = """
                status | code                     | message                                         | verdict
                400    | invalid_param            | Too many requests. Please try again later.      | throttled
                400    | invalid_param            | name is required in input form                  | failed
                400    | provider_not_initialize  | No valid model provider credentials found       | stop
                400    | provider_quota_exceeded  | Your quota has been exhausted.                  | stop
                400    | completion_request_error | Completion request failed.                      | again
                500    | internal_server_error    | Internal Server Error, please contact support.  | look up
                500    |                          | name is required in input form                  | failed
                500    |                          | x in input form must be less than 48 characters | failed
                500    |                          | expected value type int, float or str, got      | failed
                500    |                          | Invalid input type for ['x']                    | failed
                500    |                          | this statement should be unreachable.           | failed
                500    |                          | transfer_method is required in file mapping     | failed
                500    |                          | 'ftp' is not a valid FileTransferMethod         | failed
                500    |                          | Invalid upload file                             | failed
                500    |                          | Invalid file url                                | failed
                500    |                          | Detected file type does not match the specified | failed
                500    |                          | File validation failed for file: a.pdf          | failed
                500    |                          | Reached maximum retries (3) for URL http://x    | failed
                500    |                          | Too many requests. Please try again later.      | throttled
                500    |                          | 'NoneType' object has no attribute 'id'         | look up
                500    |                          | query is required                               | failed
                500    |                          |                                                 | look up
                """)
        void classifiesAStreamErrorByItsCodeOrElseByItsText(int status, String code, String message, String verdict) {
            var seen = judge.verdict(attempt(0, 0), Response.Refused.event(status, Objects.toString(code, ""),
                    Objects.toString(message, ""), Optional.empty()));

            assertEquals(verdict, word(seen));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                status    | error                                                      | verdict
                SUCCEEDED |                                                            | succeeded
                PARTIAL   |                                                            | partial
                FAILED    | division by zero                                           | failed
                FAILED    | Aborted: Maximum execution steps exceeded: 501 > 500       | failed
                FAILED    | Aborted: Maximum execution time exceeded: 1200.51s > 1200s | failed
                FAILED    | Aborted: User requested stop                               | failed
                FAILED    | Aborted: connection error, try again                        | failed
                FAILED    |                                                            | failed
                STOPPED   | Stopped by user.                                           | look up
                PAUSED    |                                                            | paused
                RUNNING   |                                                            | look up
                """)
        void classifiesARunByItsStatusNotByHttp200(RunStatus status, String error, String verdict) {
            var seen = judge.verdict(attempt(0, 0), ran("run-1", status, Objects.toString(error, "")));

            assertEquals(verdict, word(seen));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                error                                                               | never  | transient | always
                [openai] Rate Limit Error, 429 Too Many Requests                    | failed | again     | again
                [openai] Server Unavailable Error, 503                              | failed | again     | again
                [anthropic] Connection Error, Connection aborted.                   | failed | again     | again
                [tongyi] The engine is currently overloaded, please try again later | failed | again     | again
                Reached maximum retries (0) for URL http://x                        | failed | again     | again
                Reached maximum retries for URL http://x                            | failed | again     | again
                The read operation timed out                                        | failed | again     | again
                Request timeout: deadline exceeded                                  | failed | again     | again
                [Errno 111] Connection refused                                      | failed | again     | again
                division by zero                                                    | failed | failed    | again
                JSON object for 'V' does not match schema: 5 is not of type 'string'| failed | failed    | again
                [openai] Authorization Error, 401 Incorrect API key provided        | failed | failed    | again
                Incorrect model credentials provided, please check and try again.   | failed | failed    | again
                The model `gpt-9` does not exist, try again                         | failed | failed    | again
                503 Server Unavailable: model gpt-9 not found                       | failed | failed    | again
                429 you have no permission for this model                           | failed | failed    | again
                Connection error: Invalid URL                                       | failed | failed    | again
                """)
        void retriesAConfirmedFailureOnlyIfRetryFailedRunsAllowsIt(String error, String never, String transientOnly,
                String always) {
            assertEquals(List.of(never, transientOnly, always),
                    words(asked -> asked.judgeStoredRun(attempt(0, 0), failed(error))));
        }

        /// The verdict if failed runs are never retried, if transient ones are, and if all are.
        private static List<String> words(Function<Judge, Verdict> verdict) {
            return Stream.of(RetryRuns.NEVER, RetryRuns.TRANSIENT, RetryRuns.ALWAYS)
                    .map(when -> word(verdict.apply(new Judge(BACKOFF, when, ACCESS, List.of())))).toList();
        }

        private static Response.Ran failedAfter(int steps, String error, String outputs) {
            return new Response.Ran(run("run-1"), RunStatus.FAILED, Given.outputs(outputs),
                    Objects.toString(error, ""), "workflow-1",
                    new Usage(0, steps, Cost.NONE));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                error                                         | steps | outputs | never   | transient | always
                Rate Limit Error                              | 3     | {}      | failed  | again     | again
                Rate Limit Error                              | 0     | {}      | look up | look up   | look up
                division by zero                              | 3     | {}      | failed  | failed    | again
                division by zero                              | 0     | {"a":1} | failed  | failed    | again
                Workflow stream ended without a terminal even | 0     | {}      | look up | look up   | look up
                name is required in input form                | 0     | {}      | look up | look up   | look up
                Aborted: User requested stop                  | 3     | {}      | failed  | failed    | again
                                                              | 0     | {}      | look up | look up   | look up
                """)
        void looksUpAFailureAtOnceOnlyIfDifyMayHaveMadeItUp(String error, int steps, String outputs,
                String never, String transientOnly, String always) {
            assertEquals(List.of(never, transientOnly, always),
                    words(asked -> asked.verdict(attempt(0, 0), failedAfter(steps, error, outputs))));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                mode      | steps | error                                          | never     | transient | always
                STREAMING | 0     | name is required in input form                 | failed    | failed    | failed
                STREAMING | 0     | Reached maximum retries (3) for URL http://x   | failed    | failed    | failed
                STREAMING | 0     | Too many requests. Please try again later.     | throttled | throttled | throttled
                STREAMING | 0     | Model gpt-4o credentials is not initialized.   | stop      | stop      | stop
                STREAMING | 0     | No valid model provider credentials found. Ple | stop      | stop      | stop
                STREAMING | 0     | No class mapping found for node type: nosuch-n | stop      | stop      | stop
                STREAMING | 0     | [Errno 111] Connection refused                 | look up   | look up   | look up
                STREAMING | 0     | Workflow stream ended without a terminal event | look up   | look up   | look up
                STREAMING | 0     |                                                | look up   | look up   | look up
                STREAMING | 3     | Rate Limit Error                               | failed    | again     | again
                BLOCKING  | 0     | Rate Limit Error                               | failed    | again     | again
                BLOCKING  | 0     | division by zero                               | failed    | failed    | again
                """)
        void classifiesAFailureWithoutAStoredRunByItsError(Mode mode, int steps, String error, String never,
                String transientOnly, String always) {
            var attempt = attempt(mode, Tries.NONE);

            assertEquals(List.of(never, transientOnly, always),
                    words(asked -> asked.judgeUnstoredFailure(attempt, failedAfter(steps, error, "{}"))));
        }

        /// A worker that fails in the middle of a run reports the id of that run, which may still be active.
        @Test
        void retriesAnUnstoredTransientFailureOnlyIfItsRunIdIsMadeUp() {
            var attempt = attempt(Mode.STREAMING, Tries.NONE);
            for (var run : List.of(new RunRef("run-1", "run-1"), new RunRef("run-1", "task-1"))) {
                var end = new Response.Ran(run, RunStatus.FAILED, Given.outputs("{}"), "Connection refused", "",
                        Usage.NONE);
                var verdict = run.isMadeUp() ? "again" : "look up";
                assertEquals(List.of("look up", verdict, verdict), words(asked -> asked.judgeUnstoredFailure(attempt, end)));
            }
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', quoteCharacter = '`', textBlock = """
                code                     | message                                    | not stored | stored as failed
                invalid_param            | No class mapping found for node type: x    | stop       | stop
                                         | name is required in input form             | failed     | failed
                                         | 'NoneType' object has no attribute 'id'    | look up    | again
                completion_request_error | Completion request failed.                 | again      | again
                internal_server_error    | Internal Server Error, please contact      | look up    | again
                """)
        void acceptsAStreamErrorOfAStartedRunOnlyAfterALookUp(String code, String message, String notStored,
                String stored) {
            int status = "internal_server_error".equals(code) || code == null ? 500 : 400;
            var error = Response.Refused.event(status, Objects.toString(code, ""), message,
                    Optional.of(run("run-1")));

            assertEquals(Symptom.UNCONFIRMED, symptom(error));
            assertEquals(notStored, word(judge.judgeUnstoredFailure(attempt(0, 0), error)));
            assertEquals(stored, word(judge.confirmed(attempt(0, 0), error, failed("Rate Limit Error"))));
        }

        @Test
        void judgesAConfirmedFailureByItsReportUnlessThatIsBare() {
            var bare = new Response.Ran(run("run-1"), RunStatus.FAILED, outputs("{}"), "no such city", "", Usage.NONE);
            var stored = failed("Rate Limit Error");

            assertEquals("failed", word(judge.confirmed(attempt(0, 0), failed("no such city"), stored)));
            assertEquals("again", word(judge.confirmed(attempt(0, 0), bare, stored)));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                error,                                  paused, after a form
                Aborted: Client response stream closed, false,  true
                Aborted: App task was stopped,          true,   true
                Aborted: App task was stopped,          false,  false
                no such city,                           true,   false
                """)
        void knowsWhichRunsEndedWithTheirForm(String error, boolean wasPaused, boolean isAfterForm) {
            assertEquals(isAfterForm, Judge.isAfterForm(error, wasPaused));
        }

        @ParameterizedTest
        @CsvSource({"401, true", "403, true", "404, false"})
        void isShutOutIfDifyDeniesAccess(int status, boolean isShutOut) {
            var verdict = judge.verdict(attempt(0, 0), http(status, "denied", "no"));

            assertEquals(isShutOut, ((Verdict.StopBatch) verdict).isShutOut());
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                tried, allowed, verdict
                0,     3,       again
                2,     3,       again
                3,     3,       failed
                4,     3,       failed
                0,     0,       failed
                """)
        void failsARowWhenItsRetriesReachMaxRetries(int tried, int allowed, String verdict) {
            var few = new Judge(new Backoff(seconds(1), seconds(60), allowed),
                    RetryRuns.TRANSIENT, ACCESS, List.of());

            assertEquals(verdict, word(few.judgeStoredRun(attempt(tried, 9), failed("Rate Limit Error"))));
            assertEquals(verdict, word(few.verdict(attempt(tried, 9), http(400, "completion_request_error", "no"))));
        }

        @ParameterizedTest
        @EnumSource(Symptom.class)
        void requiresALookUpForEveryReasonARequestHasNoOutcome(Symptom symptom) {
            assertEquals(symptom, symptom(cut(symptom)));
        }

        private Symptom symptom(Response response) {
            return assertInstanceOf(Verdict.Unresolved.class, judge.verdict(attempt(3, 0), response)).symptom();
        }

        @Test
        void derivesTheReasonForALookUpFromTheResponse() {
            assertEquals(Symptom.CUT, symptom(http(500, "unknown", "Internal Server Error")));
            assertEquals(Symptom.CUT, symptom(http(400, "invalid_param", "queue listening stopped")));
            assertEquals(Symptom.GATEWAY, symptom(html(500)));
            assertEquals(Symptom.GATEWAY, symptom(html(504)));
            assertEquals(Symptom.CUT,
                    symptom(Response.Refused.event(500, "", "no attribute 'id'", Optional.empty())));
            assertEquals(Symptom.CUT, symptom(ran("run-1", RunStatus.STOPPED, "")));
            assertEquals(Symptom.CUT, symptom(ran("run-1", RunStatus.RUNNING, "")));
            assertEquals(Symptom.UNCONFIRMED, symptom(failedAfter(0, "Rate Limit Error", "{}")));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                error                                                              | tried | verdict | says
                Aborted: Workflow stopped because the worker is shutting down.     | 0     | again   |
                Aborted: Workflow stopped because the worker is shutting down.     | 3     | failed  | shutting down
                Aborted: User requested stop                                       | 0     | failed  | User requested
                Aborted: Client response stream closed before app execution ended  | 0     | failed  | after a form
                Aborted: App task was stopped                                      | 0     | failed  | after a form
                Aborted: Maximum execution time exceeded: 1200.51s > 1200s         | 0     | failed  | --timeout
                Aborted: App execution exceeded 1200 seconds                       | 0     | failed  | --timeout
                """)
        void failsAStoppedRunUnlessItsWorkerWasShutDown(String error, int tried, String verdict, String says) {
            var stopped = ran("run-1", RunStatus.STOPPED, error);
            var judged = judge.judgeStoredRun(attempt(tried, 0), stopped);

            assertEquals(List.of("failed", verdict, verdict),
                    words(asked -> asked.judgeStoredRun(attempt(tried, 0), stopped)));
            if (judged instanceof Outcome failed)
                assertTrue(failed.text().startsWith(error) && failed.text().contains(says), failed.text());
        }

        @Test
        void retriesAThrottledRowAfterTheWaitTheServerAsksFor() {
            var refused = Response.Refused.http(429, Author.AT_ONCE, "", "slow down", Optional.of(seconds(90)));

            var seen = assertInstanceOf(Verdict.Throttled.class, judge.verdict(attempt(0, 0), refused));

            assertEquals(seconds(90), seen.after());
        }

        @Test
        void omitsInputsFromTheTextOfAValidationError() {
            var report = "1 validation error for WorkflowRunPayload\ninputs\n  Input should be a valid dictionary "
                    + "[type=dict_type, input_value='my secret row', input_type=str]";

            var seen = judge.verdict(attempt(0, 0), http(400, "invalid_param", report));

            assertFalse(textOf(seen).contains("secret"), textOf(seen));
        }

        /// Dify reports such a failure by an HTTP 400, after the run was paid for.
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                error                                    | verdict
                Run failed: no such city                 | failed
                Run failed: [openai] Rate Limit Error    | look up
                """)
        void looksUpAFailedChatflowRunOnlyIfItWouldBeRetried(String error, String verdict) {
            assertEquals(verdict, word(judge.verdict(attempt(Mode.BLOCKING, Tries.NONE), Response.Ran.failed(error))));
        }

    }

    @Nested
    class TheDifyVersion {
        /// When the server lists the runs of workflows and of chatflows, and whether it keeps refused streams open.
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                version,    workflow,   chatflow,    holds refused
                1.9.2,      AT_END,     WITHOUT_END, false
                1.10.1,     AT_END,     WITHOUT_END, false
                0.15.3,     AT_END,     WITHOUT_END, false
                1.11.0,     NOT_KNOWN,  NOT_KNOWN,   true
                1.13.3,     NOT_KNOWN,  NOT_KNOWN,   true
                1.14.0,     FROM_START, FROM_START,  true
                1.14.2,     FROM_START, FROM_START,  true
                1.14.0-rc1, FROM_START, FROM_START,  true
                1.15.0,     FROM_START, FROM_START,  true
                1.16.0,     FROM_START, FROM_START,  false
                1.16.1,     FROM_START, FROM_START,  false
                1.20.0,     FROM_START, FROM_START,  false
                2.0.0,      FROM_START, FROM_START,  false
                '',         NOT_KNOWN,  NOT_KNOWN,   true
                dev,        NOT_KNOWN,  NOT_KNOWN,   true
                1,          NOT_KNOWN,  NOT_KNOWN,   true
                """)
        void determinesWhenRunsAreListedAndRefusedStreamsHeldOpen(String version, Listing workflow, Listing chatflow,
                boolean holds) {
            var release = Release.of(version);
            assertEquals(workflow, release.listing(AppKind.WORKFLOW));
            assertEquals(chatflow, release.listing(AppKind.CHATFLOW));
            assertEquals(holds, release.holdsRefused());
        }

        @ParameterizedTest
        @CsvSource({"1.9.2, false", "1.16.0, false", "1.16.1, false", "1.16.2, true", "1.17, true", "1.19.0-rc1, true",
            "2.0, true", "dev, false", "'', false"})
        void isNotedIfItIsNewerThanTheTestedVersions(String version, boolean isNoted) {
            assertEquals(isNoted, Release.note(version).isPresent());
        }
    }

    /// The verdicts after a look-up, each in a few words; `,` separates them.
    @Nested
    class TheLookUpRules {
        private static final LookUpContext HERE = here(Listing.FROM_START);
        private static final Response BARE = bare("Workflow stream ended without a terminal event");

        private final LookUpRules lookUpRules = lookUpRules(false, seconds(30));

        private static LookUpRules lookUpRules(boolean resendUnknown, Duration settle) {
            var limits = new Limits(null, null, null, seconds(20), seconds(300), settle);
            var judge = new Judge(BACKOFF, RetryRuns.TRANSIENT, ACCESS, List.of());
            return new LookUpRules(judge, limits, resendUnknown, false);
        }

        private static String word(Verdict verdict) {
            return switch (verdict) {
                case Verdict.Take(var outcome, var inputs) -> "take " + outcome.status().word()
                        + (inputs.isEmpty() ? "" : " as sent");
                case Verdict.LookAgain(_, var next) when next == LookUp.Stage.ENDED -> "look in 2 s";
                case Verdict.LookAgain(var lookUp, var next) when next == LookUp.Stage.OVERDUE
                        && lookUp.stage() != next -> "stop the run";
                case Verdict.LookAgain _ -> "look";
                case Verdict.Close(var end, _) -> end;
                case Verdict.SendAgain(var tries, var checked) -> (checked.isPresent() ? "send " : "recheck ")
                        + tries.failed();
                case Verdict.SettlesAt(var time) -> "settles at " + Duration.between(NOON, time).toSeconds();
                case Outcome _, Verdict.Again _, Verdict.Throttled _, Verdict.Unresolved _,
                        Verdict.StopBatch _ -> Given.word(verdict);
            };
        }

        private static String words(LookUpRules rules, LookUp lookUp, LookUpResult found, LookUpContext here,
                Instant now) {
            lookUp.note(found, now, seconds(300));
            var verdicts = rules.verdicts(lookUp, found, here, now);
            return verdicts.isEmpty() ? "nothing"
                    : String.join(", ", verdicts.stream().map(TheLookUpRules::word).toList());
        }

        private String step(LookUp lookUp, LookUpResult found, Listing listing, long seconds) {
            return words(lookUpRules, lookUp, found, here(listing), NOON.plusSeconds(seconds));
        }

        private String step(LookUp lookUp, LookUpResult found) {
            return step(lookUp, found, Listing.FROM_START, 10);
        }

        private static Response.Ran bare(String error) {
            return new Response.Ran(run("run-1"), RunStatus.FAILED, outputs("{}"), error, "",
                    Usage.NONE);
        }

        private static LookUp lookUp(Symptom symptom, Attempt attempt, boolean known) {
            var cut = known ? cut(symptom, run("run-1")) : cut(symptom);
            return Given.lookUp(attempt, symptom == Symptom.UNCONFIRMED ? BARE : cut,
                    new Verdict.Unresolved(symptom, symptom.name()), 300);
        }

        private static LookUp lookUp(Symptom symptom) {
            return lookUp(symptom, attempt(0, 0), true);
        }

        private static LookUp in(LookUp.Stage stage, LookUp lookUp) {
            if (stage == LookUp.Stage.ACTIVE) lookUp.note(new LookUpResult.Unanswered(false), NOON, seconds(300));
            lookUp.lookAgain(stage, NOON);
            return lookUp;
        }

        /// Returns an attempt with other cells than its row has now.
        private static Attempt stale(boolean isEdited) {
            return new Attempt(0, row("a"), Tries.NONE, attempt(0, 0).user(), Mode.BLOCKING,
                    "0123456789abcdef", NOON, isEdited);
        }

        private static LookUpResult found(RunStatus status) {
            return switch (status) {
                case RUNNING, PAUSED -> new LookUpResult.Running(run("run-1"), status, Optional.empty(), Duration.ZERO);
                case SUCCEEDED, PARTIAL, FAILED, STOPPED -> ended(ran("run-1", status,
                        status.isSuccess() ? "" : "no such city"));
            };
        }

        @ParameterizedTest(name = "{0}, {1}, now {2}")
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                symptom,     stage,   status,    step
                CUT,         ASKED,   SUCCEEDED, take succeeded
                CUT,         ASKED,   PARTIAL,   take partial
                CUT,         ASKED,   FAILED,    take failed
                CUT,         ASKED,   STOPPED,   look in 2 s
                CUT,         ACTIVE,  STOPPED,   look in 2 s
                CUT,         ENDED,   STOPPED,   take failed
                CUT,         ENDED,   SUCCEEDED, take succeeded
                CRASH,       ASKED,   STOPPED,   look in 2 s
                CRASH,       ASKED,   FAILED,    take failed
                LOST_RESULT, ASKED,   SUCCEEDED, take succeeded
                TIMED_OUT,   ASKED,   SUCCEEDED, take succeeded
                TIMED_OUT,   ASKED,   FAILED,    take failed
                TIMED_OUT,   ASKED,   STOPPED,   look in 2 s
                TIMED_OUT,   OVERDUE, SUCCEEDED, take succeeded
                TIMED_OUT,   OVERDUE, STOPPED,   look in 2 s
                TIMED_OUT,   ENDED,   STOPPED,   take failed
                UNCONFIRMED, ASKED,   SUCCEEDED, take succeeded
                UNCONFIRMED, ASKED,   FAILED,    failed
                UNCONFIRMED, ASKED,   STOPPED,   look in 2 s
                UNCONFIRMED, ENDED,   STOPPED,   failed
                INTERRUPTED, ASKED,   SUCCEEDED, take succeeded
                INTERRUPTED, ASKED,   FAILED,    'interrupted, recheck 0'
                INTERRUPTED, ASKED,   STOPPED,   look in 2 s
                INTERRUPTED, ENDED,   STOPPED,   'interrupted, recheck 0'
                """)
        void acceptASuccessAtOnceButAStopOnlyIfSeenTwice(Symptom symptom, LookUp.Stage stage, RunStatus status,
                String step) {
            assertEquals(step, step(in(stage, lookUp(symptom)), found(status)));
        }

        @ParameterizedTest
        @EnumSource(value = Purpose.class, names = "QUIET", mode = EnumSource.Mode.EXCLUDE)
        void takeAnEmptyAnswerWithoutARunOnlyIfSeenTwice(Purpose purpose) {
            var empty = Response.Ran.answered(outputs("{\"answer\":\"\"}"), 1,
                    new Response.ChatMessage("c", "m", Cost.of(9)));
            var lookUp = new LookUp(attempt(0, 0), purpose, cut(Symptom.CUT), new Verdict.Unresolved(Symptom.CUT, ""))
                    .setTimes(NOON, NOON.plusSeconds(300));

            assertEquals("look in 2 s", step(lookUp, ended(empty)));
            assertEquals("take succeeded", step(in(LookUp.Stage.ENDED, lookUp), ended(empty)));
        }

        @Test
        void reportAFailureAfterTheTimeLimitAsATimeout() {
            var verdict = lookUpRules.verdicts(lookUp(Symptom.TIMED_OUT), ended(failed("Rate Limit Error")), HERE, NOON)
                    .getFirst();

            assertTrue(textOf(verdict).startsWith("timed out"), verdict.toString());
        }

        @ParameterizedTest(name = "{0}, {1} after {2} s, started {3} s before, resent on request: {4}")
        @CsvSource(useHeadersInDisplayName = true, nullValues = "-", textBlock = """
                symptom,     status,  seconds, age, resend, step
                CUT,         RUNNING, 299,     -,   false,  look
                CUT,         RUNNING, 300,     -,   false,  unknown
                CUT,         RUNNING, 300,     -,   true,   unknown
                CUT,         RUNNING, 310,     299, false,  look
                CUT,         RUNNING, 310,     300, false,  unknown
                CUT,         PAUSED,  10,      -,   false,  paused
                UNCONFIRMED, RUNNING, 299,     -,   false,  look
                UNCONFIRMED, RUNNING, 300,     -,   true,   unknown
                TIMED_OUT,   RUNNING, 299,     299, false,  look
                TIMED_OUT,   RUNNING, 300,     0,   false,  look
                TIMED_OUT,   RUNNING, 300,     -,   false,  stop the run
                TIMED_OUT,   RUNNING, 600,     300, false,  stop the run
                CRASH,       RUNNING, 299,     -,   true,   look
                CRASH,       RUNNING, 300,     -,   false,  unknown
                CRASH,       RUNNING, 300,     -,   true,   'resent, send 0'
                CRASH,       PAUSED,  10,      -,   false,  paused
                CRASH,       PAUSED,  10,      -,   true,   'resent, send 0'
                """)
        void lookUpAnActiveRunAgainUntilItsTimeLimit(Symptom symptom, RunStatus status,
                long seconds, Long age, boolean resend, String step) {
            var found = new LookUpResult.Running(run("run-1"), status,
                    Optional.ofNullable(age).map(Duration::ofSeconds), Duration.ZERO);

            assertEquals(step, words(lookUpRules(resend, null), lookUp(symptom), found, HERE,
                    NOON.plusSeconds(seconds)));
        }

        /// The age of the run does not matter, because Dify may take a moment to stop it.
        @ParameterizedTest
        @CsvSource({"29, 900, look", "30, 0, unknown", "30, 900, unknown"})
        void lookUpARunAskedToStopForThirtySecondsMore(long seconds, long age, String step) {
            var overdue = in(LookUp.Stage.ACTIVE, in(LookUp.Stage.OVERDUE, lookUp(Symptom.TIMED_OUT)));

            assertEquals(step, step(overdue, running("run-1", seconds(age)), Listing.FROM_START, seconds));
        }

        @ParameterizedTest
        @CsvSource({"CUT, 499, look", "CUT, 500, unknown", "TIMED_OUT, 499, look", "TIMED_OUT, 500, stop the run",
            "CRASH, 499, look", "CRASH, 500, unknown"})
        void excludeARunsMoveToAnotherWorkerFromItsTimeLimit(Symptom symptom, long seconds, String step) {
            var found = running("run-1", seconds(seconds), seconds(200));

            assertEquals(step, step(lookUp(symptom), found, Listing.FROM_START, seconds));
        }

        @Test
        void leaveATimedOutRunUnknownIfItHasNoTaskIdToStopItBy() {
            var nameless = Given.lookUp(attempt(0, 0), cut(Symptom.TIMED_OUT, new RunRef("run-1", "")), 0);

            assertEquals("unknown", step(nameless, running("run-1", seconds(300)), Listing.FROM_START, 300));
        }

        /// The first look-up was answered at noon.
        @ParameterizedTest(name = "{0}, {1}, nothing found after {2} s")
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                listing,    mode,      seconds, step
                FROM_START, BLOCKING,  29,      look
                FROM_START, BLOCKING,  30,      'not_started, recheck 1'
                FROM_START, STREAMING, 299,     look
                FROM_START, STREAMING, 300,     unknown
                WITHOUT_END, STREAMING, 29,     look
                WITHOUT_END, STREAMING, 30,     'not_started, recheck 1'
                AT_END,     BLOCKING,  299,     look
                AT_END,     BLOCKING,  300,     unknown
                AT_END,     STREAMING, 0,       unknown
                NOT_KNOWN,  BLOCKING,  299,     look
                NOT_KNOWN,  BLOCKING,  300,     unknown
                NOT_KNOWN,  STREAMING, 299,     look
                NOT_KNOWN,  STREAMING, 300,     unknown
                """)
        void resendARowWithoutAListedRunOnlyIfNoRunCanHaveStarted(Listing listing,
                Mode mode, long seconds, String step) {
            var lookUp = lookUp(Symptom.NO_RESPONSE, attempt(mode, Tries.NONE), false);
            lookUp.note(ABSENT, NOON, seconds(300));

            assertEquals(step, words(lookUpRules(false, null), lookUp, ABSENT, here(listing),
                    NOON.plusSeconds(seconds)));
        }

        /// Responses that were not answers do not count, however long they lasted.
        @ParameterizedTest
        @CsvSource({"29, look", "30, 'not_started, recheck 1'"})
        void countTheSettleTimeOfABlockingRunFromItsFirstAnsweredLookUp(long seconds, String step) {
            var lookUp = lookUp(Symptom.NO_RESPONSE, attempt(0, 0), false);
            for (int second : new int[] {0, 30, 60}) assertEquals("look", step(lookUp, silent("none"),
                    Listing.FROM_START, second));
            assertEquals("look", step(lookUp, ABSENT, Listing.FROM_START, 90));

            assertEquals(step, step(lookUp, ABSENT, Listing.FROM_START, 90 + seconds));
        }

        /// A later stream has started after `passed` seconds. The attempt got a response with this status, from a
        /// gateway that had waited (`late`) or not, or none. `others` is true if the session has other rows.
        @ParameterizedTest(name = "passed after {0} s, HTTP {1}, --settle {2}, others: {3}, after {4} s")
        @CsvSource(useHeadersInDisplayName = true, nullValues = "-", textBlock = """
                passed, http,   settle, others, seconds, step
                -,      0,      -,      false,  299,     look
                -,      0,      -,      false,  300,     unknown
                -,      0,      -,      true,   4000,    look
                10,     0,      -,      true,   1209,    look
                10,     0,      -,      true,   1210,    'not_started, recheck 1'
                10,     0,      -,      false,  299,     look
                10,     0,      -,      false,  300,     'unknown, settles at 1210'
                10,     0,      40,     false,  49,      look
                10,     0,      40,     false,  50,      'not_started, recheck 1'
                290,    0,      40,     false,  329,     look
                290,    0,      301,    false,  329,     'unknown, settles at 591'
                290,    504,    -,      false,  319,     look
                10,     500,    -,      false,  39,      look
                10,     500,    -,      false,  40,      'not_started, recheck 1'
                10,     502,    -,      false,  40,      'not_started, recheck 1'
                10,     504,    -,      false,  40,      'not_started, recheck 1'
                10,     501,    -,      false,  40,      look
                10,     504,    5,      false,  15,      'not_started, recheck 1'
                -,      504,    -,      false,  300,     unknown
                -,      503,    -,      false,  29,      look
                -,      503,    -,      false,  30,      'not_started, recheck 1'
                -,      503,    -,      true,   30,      'not_started, recheck 1'
                10,     late500, -,    true,   1209,    look
                10,     late502, -,    true,   1209,    look
                10,     late503, -,    true,   1209,    look
                10,     late504, -,    true,   1209,    look
                10,     late504, -,    true,   1210,    'not_started, recheck 1'
                -,      late503, -,    false,  299,     look
                -,      late503, -,    false,  300,     unknown
                -,      late503, -,    true,   4000,    look
                """)
        void resendARowWithoutAListedRunOnlyIfALaterStreamHasStarted(Long passed, String http, Integer settle,
                boolean others, long seconds, String step) {
            var said = http.equals("0") ? cut(Symptom.CUT) : http.startsWith("late")
                    ? late(Integer.parseInt(http.substring(4))) : html(Integer.parseInt(http));
            var lookUp = Given.lookUp(attempt(Mode.STREAMING, Tries.NONE), said,
                    new Verdict.Unresolved(Symptom.CUT, ""), 300);
            lookUp.note(ABSENT, NOON, seconds(300));
            var here = new LookUpContext(Listing.FROM_START, Optional.ofNullable(passed).map(NOON::plusSeconds),
                    others, RowStatus.PENDING, Duration.ZERO);

            assertEquals(step, words(lookUpRules(false, settle == null ? null : seconds(settle)), lookUp, ABSENT, here,
                    NOON.plusSeconds(seconds)));
        }

        @Test
        void promiseNothingForAStreamThatIsResentOnRequest() {
            var lookUp = lookUp(Symptom.CRASH, attempt(Mode.STREAMING, Tries.NONE), false);
            var here = new LookUpContext(Listing.FROM_START, Optional.of(NOON), false, RowStatus.PENDING, Duration.ZERO);

            assertEquals("resent, send 0", words(lookUpRules(true, null), lookUp, ABSENT, here, NOON.plusSeconds(400)));
        }

        @ParameterizedTest
        @CsvSource({"604800, 'not_started, recheck 0'", "604801, unknown"})
        void neverTreatAnAttemptAsNotStartedAfterAWeek(long seconds, String step) {
            var lookUp = lookUp(Symptom.CRASH, attempt(0, 0), false);
            lookUp.note(ABSENT, NOON, seconds(300));

            assertEquals(step, step(lookUp, ABSENT, Listing.FROM_START, seconds));
        }

        /// Its response was too large, or a look-up has shown the run.
        @Test
        void neverTreatAnAttemptAsNotStartedIfItsRunWasSeen() {
            var seen = in(LookUp.Stage.ACTIVE, lookUp(Symptom.NO_RESPONSE, attempt(0, 0), false));

            var tooLarge = Given.lookUp(attempt(0, 0), new Response.Unreadable(Optional.empty(), "too large"),
                    new Verdict.Unresolved(Symptom.CRASH, ""), 300);

            assertEquals("unknown", step(tooLarge, ABSENT, Listing.FROM_START, 400));
            assertEquals("look", step(seen, ABSENT, Listing.FROM_START, 40));
            assertEquals("unknown", step(seen, ABSENT, Listing.FROM_START, 400));
            assertEquals("unknown", step(in(LookUp.Stage.ACTIVE, recheck(attempt(0, 0))), ABSENT, Listing.FROM_START,
                    400));
        }

        @ParameterizedTest(name = "{0}, {1}, is over: {2}, after {3} s")
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                listing,     mode,      is over, seconds, symptom,   step
                FROM_START,  STREAMING, false,   299,     NO_RESPONSE, look
                FROM_START,  STREAMING, false,   300,     NO_RESPONSE, unknown
                FROM_START,  BLOCKING,  true,    2,       NO_RESPONSE, look
                FROM_START,  BLOCKING,  true,    300,     NO_RESPONSE, unknown
                WITHOUT_END, STREAMING, false,   2,       NO_RESPONSE, unknown
                WITHOUT_END, BLOCKING,  false,   299,     NO_RESPONSE, look
                WITHOUT_END, BLOCKING,  false,   300,     CRASH,     unknown
                """)
        void neverTreatAnUnansweredChatMessageAsNotStarted(Listing listing, Mode mode, boolean isOver,
                long seconds, Symptom symptom, String step) {
            var lookUp = lookUp(symptom, attempt(mode, Tries.NONE), false);

            assertEquals(step, step(lookUp, new LookUpResult.Unanswered(isOver), listing, seconds));
        }

        @Test
        void delayTheResendOfARowWhileItsChatMessageIsUnanswered() {
            assertEquals("look", step(recheck(attempt(Mode.BLOCKING, Tries.NONE)), new LookUpResult.Unanswered(false)));
        }

        @ParameterizedTest
        @EnumSource(value = Symptom.class, mode = EnumSource.Mode.EXCLUDE, names = "UNCONFIRMED")
        void neverTreatARunWithAKnownIdAsNotStarted(Symptom symptom) {
            for (var listing : Listing.values())
                for (var mode : List.of(Mode.BLOCKING, Mode.STREAMING)) {
                    var lookUp = lookUp(symptom, attempt(mode, Tries.NONE), true);
                    assertEquals("look", step(lookUp, ABSENT, listing, 299));
                    assertEquals(symptom == Symptom.TIMED_OUT ? "stop the run" : "unknown",
                            step(lookUp, ABSENT, listing, 301));
                }
        }

        /// The first event in the stream of a refused row in Dify 1.16 has such a run id.
        @Test
        void treatAMadeUpRunIdAsAMissingRunId() {
            var lookUp = Given.lookUp(attempt(Mode.STREAMING, Tries.NONE),
                    cut(Symptom.CRASH, new RunRef("one", "one")), 300);
            lookUp.note(ABSENT, NOON, seconds(300));

            assertEquals("look", step(lookUp, ABSENT, Listing.FROM_START, 29));
            assertEquals("not_started, recheck 0", step(lookUp, ABSENT, Listing.FROM_START, 30));
            assertEquals("unknown", step(lookUp, ABSENT, Listing.AT_END, 0));
        }

        @ParameterizedTest(name = "{0} after {1} failed attempts")
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                symptom,     failed, step
                NO_RESPONSE,   0,      'not_started, recheck 1'
                NO_RESPONSE,   2,      'not_started, recheck 3'
                NO_RESPONSE,   3,      'not_started, failed'
                CRASH,       3,      'not_started, recheck 3'
                INTERRUPTED, 0,      'not_started, recheck 0'
                """)
        void countARequestThatStartedNoRunAsARetryOnlyInItsSession(Symptom symptom, int failed,
                String step) {
            var lookUp = lookUp(symptom, attempt(failed, 0), false);
            lookUp.note(ABSENT, NOON, seconds(300));

            assertEquals(step, step(lookUp, ABSENT, Listing.FROM_START, 30));
        }

        @ParameterizedTest(name = "{0}: {1}")
        @CsvSource(useHeadersInDisplayName = true, delimiter = '|', textBlock = """
                mode      | words                                          | step
                STREAMING | name is required in input form                 | failed
                STREAMING | [Errno 111] Connection refused                 | look up
                STREAMING | Workflow stream ended without a terminal event | look up
                BLOCKING  | [Errno 111] Connection refused                 | again
                BLOCKING  | no such city                                   | failed
                """)
        void judgeAnUnconfirmedFailureWithoutAStoredRunByItsError(Mode mode, String words, String step) {
            assertEquals(step, step(unconfirmed(bare(words), mode), ABSENT));
        }

        private static LookUp unconfirmed(Response said, Mode mode) {
            return Given.lookUp(attempt(mode, Tries.NONE), said, new Verdict.Unresolved(Symptom.UNCONFIRMED, ""), 0);
        }

        /// A run that has appeared once is not judged by the error that was reported first.
        @Test
        void leaveAnUnconfirmedFailureUnknownIfItsRunHasVanished() {
            var lookUp = unconfirmed(Response.Ran.failed("connection error"), Mode.BLOCKING);
            lookUp.note(running("run-7"), NOON, seconds(300));

            assertEquals("unknown", step(in(LookUp.Stage.ACTIVE, lookUp), ABSENT));
            assertEquals("run-7", LookUpRules.known(lookUp, ABSENT).run().orElseThrow().id());
        }

        @Test
        void keepTheRunIdOfAnUnstoredFailureOnlyIfItsRunTookSteps() {
            var error = Response.Refused.event(400, "invalid_param", "No class mapping found", Optional.of(run("r")));

            for (var said : List.of(bare("x is required in input form"), BARE, error))
                assertEquals(Optional.empty(), notStored(said).run(), said.toString());
            assertEquals(Optional.of(run("run-7")), notStored(ran("run-7", RunStatus.FAILED, "no such city")).run());
            assertEquals(400, ((Response.Refused) notStored(error)).status());
        }

        /// The failure that a response reported counts only if Dify confirms it or has no run.
        @Test
        void keepWhatTheLookUpFoundUnlessItConfirmsTheReportedFailure() {
            var said = failed("no such city");
            var success = succeeded("run-1");

            assertSame(success, LookUpRules.known(unconfirmed(said, Mode.STREAMING), ended(success)));
            assertSame(said, LookUpRules.known(unconfirmed(said, Mode.STREAMING), found(RunStatus.FAILED)));
            assertSame(said, LookUpRules.known(unconfirmed(said, Mode.STREAMING), new LookUpResult.Unlisted()));
            assertEquals(Optional.of(run("run-1")), LookUpRules.known(lookUp(Symptom.CUT), ABSENT).run());
            var madeUp = Given.lookUp(attempt(0, 0), cut(Symptom.CUT, new RunRef("x", "x")), 300);
            assertEquals(Optional.empty(), LookUpRules.known(madeUp, ABSENT).run());
            assertEquals(madeUp.run(), LookUpRules.known(madeUp, running("run-1")).run());
        }

        @ParameterizedTest(name = "{0}, {1}, {2}")
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                mode,      listing,     found,      step
                STREAMING, WITHOUT_END, unanswered, unknown
                BLOCKING,  WITHOUT_END, unanswered, look
                STREAMING, FROM_START,  unanswered, look
                STREAMING, AT_END,      absent,     unknown
                BLOCKING,  AT_END,      absent,     look
                STREAMING, NOT_KNOWN,   absent,     look
                """)
        void waitUnlessADroppedStreamIsNeverShown(Mode mode, Listing listing, String found, String step) {
            var lookUp = lookUp(Symptom.CUT, attempt(mode, Tries.NONE), false);

            assertEquals(step, step(lookUp, found.equals("absent") ? ABSENT : new LookUpResult.Unanswered(false),
                    listing, 10));
        }

        @Test
        void neverSendARowAgainWhoseLostResultIsGone() {
            assertEquals("unknown", step(lookUp(Symptom.LOST_RESULT, attempt(0, 0), false), ABSENT));
        }

        private static Response notStored(Response said) {
            return LookUpRules.known(unconfirmed(said, Mode.STREAMING), ABSENT);
        }

        @ParameterizedTest(name = "{0}, {1} after {2} s, outages of {3} s, resent on request: {4}")
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                symptom, answer,    seconds, outages, resend, step
                CUT,     503,       299,     0,       false,  look
                CUT,     503,       300,     0,       false,  unknown
                CUT,     503,       300,     0,       true,   unknown
                CRASH,   503,       300,     0,       true,   'resent, send 0'
                CUT,     401,       10,      0,       false,  stop
                CUT,     401,       300,     0,       false,  stop
                CUT,     none,      10,      0,       false,  look
                CUT,     none,      300,     0,       false,  unknown
                CUT,     none,      359,     60,      false,  look
                CUT,     none,      360,     60,      false,  unknown
                TIMED_OUT, none,    300,     0,       false,  stop the run
                CUT,     too large, 10,      0,       true,   unknown
                CRASH,   too large, 10,      0,       false,  unknown
                CRASH,   too large, 10,      0,       true,   'resent, send 0'
                CUT,     long log,  10,      0,       false,  unknown
                """)
        void repeatAFailedLookUpUntilTheTimeLimitOrAFinalResponse(Symptom symptom, String answer,
                long seconds, long outages, boolean resend, String step) {
            var here = new LookUpContext(Listing.FROM_START, Optional.empty(), false, RowStatus.PENDING,
                    seconds(outages));

            assertEquals(step, words(lookUpRules(resend, null), lookUp(symptom), silent(answer), here,
                    NOON.plusSeconds(seconds)));
        }

        private static LookUpResult silent(String answer) {
            return new LookUpResult.Inconclusive(switch (answer) {
                case "none" -> cut(Symptom.NO_RESPONSE);
                case "too large" -> new Response.Unreadable(Optional.of(run("run-1")), "too large");
                case "long log" -> new Response.Unreadable(Optional.empty(), "too large");
                default -> http(Integer.parseInt(answer), "", "");
            });
        }

        @ParameterizedTest(name = "{0}, its edits are lost: {1}")
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                status,    lost,  rerun, step
                SUCCEEDED, false, false, take succeeded as sent
                PARTIAL,   false, false, take partial as sent
                SUCCEEDED, true,  false, take succeeded as sent
                PARTIAL,   true,  false, take partial as sent
                SUCCEEDED, false, true,  'take succeeded as sent, recheck 0'
                SUCCEEDED, true,  true,  take succeeded as sent
                FAILED,    false, true,  take failed
                FAILED,    false, false, take failed
                FAILED,    true,  false, take failed
                """)
        void useASuccessWithOutdatedInputsAndRerunItsRowOnRequest(RunStatus status, boolean lost, boolean rerun,
                String step) {
            var rules = new LookUpRules(lookUpRules.judge(), lookUpRules.limits(), false, rerun);

            assertEquals(step, words(rules, lookUp(Symptom.CRASH, stale(lost), true), found(status), HERE, NOON));
        }

        @ParameterizedTest
        @EnumSource(value = Symptom.class, names = {"CRASH", "INTERRUPTED"})
        void neverResendARowWhoseEditsAreLost(Symptom symptom) {
            var transientFailure = ended(ran("run-1", RunStatus.FAILED, "429 Too Many Requests"));
            var absent = lookUp(symptom, stale(true), false);
            absent.note(ABSENT, NOON, seconds(300));

            assertEquals("take failed", step(lookUp(symptom, stale(true), true), transientFailure));
            assertEquals("unknown", step(absent, ABSENT, Listing.FROM_START, 400));
        }

        private static Attempt earlier(String user) {
            return Given.sent(0, row("a"), Tries.NONE, user, Mode.BLOCKING, row("a").hash(),
                    NOON);
        }

        private static LookUp recheck(Attempt earlier) {
            var recheck = LookUp.recheck(earlier.with(earlier.row(), new Tries(2, 0, 0)), Purpose.RESEND, Optional.empty());
            recheck.question(NOON, seconds(300));
            return recheck;
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                found,     step
                SUCCEEDED, take succeeded
                FAILED,    send 2
                STOPPED,   send 2
                RUNNING,   look
                PAUSED,    paused
                """)
        void useOrAwaitARunFoundBeforeAResendUnlessItHasFailed(RunStatus found, String step) {
            assertEquals(step, step(recheck(earlier("u-1")), found(found)));
        }

        @ParameterizedTest(name = "{0} after {1} s, resent on request: {2}")
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                answer, seconds, resend, step
                503,    299,     false,  look
                503,    300,     false,  unknown
                none,   299,     false,  look
                none,   300,     false,  unknown
                none,   300,     true,   'resent, send 0'
                401,    10,      false,  stop
                """)
        void repeatAFailedLookUpBeforeAResendUntilItsTimeIsOver(String answer, long seconds, boolean resend,
                String step) {
            assertEquals(step, words(lookUpRules(resend, null), recheck(earlier("u-1")), silent(answer), HERE,
                    NOON.plusSeconds(seconds)));
        }

        @Test
        void sendARowAgainIfNoneOfItsAttemptsHasARun() {
            assertEquals("send 2", step(recheck(earlier("u-1")), ABSENT));
        }

        @Test
        void useASuccessOfEarlierInputsFoundBeforeAResend() {
            assertEquals("take succeeded as sent", step(recheck(stale(false)), found(RunStatus.SUCCEEDED)));
        }

        @Test
        void giveAnEarlierAttemptThatIsStillRunningTheFullTimeLimit() {
            var recheck = LookUp.recheck(earlier("u-1"), Purpose.RESEND, Optional.empty());
            recheck.question(NOON.plusSeconds(50), seconds(300));
            recheck.note(found(RunStatus.RUNNING), NOON.plusSeconds(50), seconds(300));

            assertEquals(Optional.of(run("run-1")), recheck.run());
            assertTrue(recheck.isOver(NOON.plusSeconds(350)) && !recheck.isOver(NOON.plusSeconds(349)));
            assertTrue(in(LookUp.Stage.ACTIVE, recheck).holdsSlot());
        }

        @ParameterizedTest(name = "{0}, the row succeeded: {1}, the same cells: {2}")
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                status,    success, same,  step
                SUCCEEDED, false,   true,  take succeeded
                PARTIAL,   false,   true,  take partial
                SUCCEEDED, true,    true,  nothing
                SUCCEEDED, false,   false, nothing
                FAILED,    false,   true,  nothing
                STOPPED,   false,   true,  nothing
                RUNNING,   false,   true,  nothing
                PAUSED,    false,   true,  nothing
                """)
        void useALateSuccessOnlyIfItsUnchangedRowHasNotSucceeded(RunStatus status, boolean success,
                boolean same, String step) {
            var late = LookUp.recheck(same ? earlier("u-1") : stale(false), Purpose.LATE, Optional.empty());
            var here = new LookUpContext(Listing.FROM_START, Optional.empty(), false,
                    success ? RowStatus.SUCCEEDED : RowStatus.FAILED, Duration.ZERO);

            assertEquals(step, words(lookUpRules, late, found(status), here, NOON));
            assertEquals("nothing", words(lookUpRules, late, ABSENT, here, NOON));
            assertEquals("nothing", words(lookUpRules, late, silent("503"), here, NOON));
        }

        @Test
        void recordTheKnownRunOfAnAttemptResentOnRequest() {
            for (boolean known : new boolean[] {true, false}) {
                var lookUp = lookUp(Symptom.CRASH, earlier("u-1"), known);

                assertEquals("resent, send 0", words(lookUpRules(true, null), lookUp, ABSENT, here(Listing.AT_END),
                        NOON.plusSeconds(301)));
                assertEquals(known, LookUpRules.known(lookUp, ABSENT).run().isPresent());
            }
        }
    }

    @Nested
    class TheCostLimit {
        private static final Limits FIVE = new Limits(null, null, new BigDecimal(5), seconds(20), seconds(300), null);

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, nullValues = "-", textBlock = """
                dollars, others, unpriced, stops
                4.9,     -,      0,        false
                4.9,     0.0,    0,        false
                5,       -,      0,        true
                1.2,     -,      3,        false
                1.25,    -,      3,        true
                1,       0.1,    0,        true
                -,       -,      9,        false
                -,       -,      10,       true
                """)
        void stopsTheBatchIfItIsReachedOrCannotBeChecked(BigDecimal dollars, BigDecimal others,
                int unpriced, boolean stops) {
            var spent = new Spending();
            for (int run = 0; run < unpriced; run++) spent.add(Cost.of(10));
            if (dollars != null) spent.add(new Cost(10, dollars, "USD"));
            if (others != null) spent.add(new Cost(10, others, "RMB"));

            assertEquals(stops, FIVE.limitReached(spent, spent).isPresent());
        }

        @Test
        void countsAllSessionsPricesButOnlyThisSessionsMissingPrices() {
            var batch = new Spending();
            for (int run = 0; run < 50; run++) batch.add(Cost.of(10));
            var own = new Spending();

            assertFalse(FIVE.limitReached(batch, own).isPresent(), "earlier runs did not stream");
            batch.add(new Cost(10, new BigDecimal(6), "USD"));
            assertTrue(FIVE.limitReached(batch, own).isPresent());
        }

        @Test
        void isUnavailableInBlockingMode() {
            assertEquals(Optional.empty(), FIVE.costUnavailable(Mode.STREAMING, AppKind.WORKFLOW));
            assertEquals(Optional.empty(), FIVE.costUnavailable(Mode.BLOCKING, AppKind.CHATFLOW));
            assertTrue(FIVE.costUnavailable(Mode.BLOCKING, AppKind.WORKFLOW).isPresent());
        }
    }

    @Nested
    class TheBackoff {
        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, textBlock = """
                attempts,   full
                0,          1000
                1,          2000
                2,          4000
                5,          32000
                6,          60000
                63,         60000
                2147483647, 60000
                """)
        void doublesUpToTheMaximumWithJitter(int attempts, long full) {
            for (int time = 0; time < 200; time++) {
                long delay = BACKOFF.delay(attempts).toMillis();

                assertTrue(delay >= full / 2 && delay <= full, delay + " ms");
            }
        }

        @Test
        void doesNotOverflowAtAMaximumOfOneYear() {
            var long1 = new Backoff(Duration.ofDays(365), Duration.ofDays(365), 3);

            assertTrue(long1.delay(40).compareTo(Duration.ofDays(182)) >= 0);
            assertTrue(long1.delay(40).compareTo(Duration.ofDays(365)) <= 0);
        }

        @Test
        void usesTheServersRetryAfterOnlyIfItIsLonger() {
            assertEquals(seconds(120), BACKOFF.delay(0, Optional.of(seconds(120))));
            assertTrue(BACKOFF.delay(4, Optional.of(seconds(1))).compareTo(seconds(8)) >= 0);
            assertTrue(BACKOFF.delay(0, Optional.empty()).compareTo(seconds(1)) <= 0);
        }

        @Test
        void capsTheServersRetryAfterAtTenMinutes() {
            assertEquals(Duration.ofMinutes(10), BACKOFF.delay(0, Optional.of(Duration.ofDays(30))));
        }

        @ParameterizedTest
        @CsvSource(useHeadersInDisplayName = true, nullValues = "-", textBlock = """
                status, asked, pause
                429,    1,     waits
                503,    600,   waits
                429,    601,   ends
                503,    86400, ends
                429,    -,     none
                500,    60,    none
                400,    60,    none
                301,    60,    none
                """)
        void pausesTheBatchForAShortRetryAfterAndEndsItForALongOne(int status, Long asked, String pause) {
            var response = Response.Refused.http(status, Author.AT_ONCE, "", "no",
                    Optional.ofNullable(asked).map(Given::seconds));

            assertEquals(pause, Backoff.Pause.of(response, NOON).map(each -> each.isTooLong() ? "ends" : "waits")
                    .orElse("none"));
        }
    }
}
