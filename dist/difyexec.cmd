@echo off
rem Starts difyexec: in an archive with the Java that came with it, beside difyexec.jar with the Java on the PATH.
setlocal
rem The commands that the tool suggests begin with what was typed.
set "DIFYEXEC_COMMAND=%~0"
set "java=java"
set "options="
set "jar=%~dp0difyexec.jar"
if not exist "%~dp0..\runtime\bin\java.exe" goto start
rem .env is read from the folder of the archive, too
set "DIFYEXEC_HOME=%~dp0.."
set "java=%~dp0..\runtime\bin\java.exe"
set "options=@"%~dp0..\lib\java-options""
set "jar=%~dp0..\lib\difyexec.jar"
:start
"%java%" %options% -jar "%jar%" %*
